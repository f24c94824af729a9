"""A model behind the address of a server, opened when it is first needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icm_fast.errors import InputError, shown
from icm_fast.files import check_name
from icm_fast.identity import SERVED, SERVER_TEXTS
from icm_fast.model.lazy import ModelIdentity
from icm_fast.scoring.servers.address import Address, Reach, parse_address, reach_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icm_fast.scoring.servers.client import Client
    from icm_fast.scoring.servers.dialect import Dialect, Listed, ServerFacts
    from icm_fast.scoring.servers.transport import Transport
    from icm_fast.scoring.servers.verification import TokenCheck

_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp"}
"""What ``/v1/models`` says in ``owned_by``, and the server that says it."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model of a server, with the tokenizer that makes its prompts.

    Attributes:
        name: The address as the user gave it.
        tokenizer: Its tokenizer, compared with that of the server.
        fingerprint: Hex digest of what the server says about the model; ties a run folder to it.
        max_context: Longest prompt in tokens.
        client: Asks the server.
        probe: Answers to known sentences, for a resumed run to compare.
        token_check: How the tokenizer was compared.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    max_context: int
    client: Client
    probe: str
    token_check: TokenCheck

    @property
    def dtype_name(self) -> str:
        """Servers do not tell their dtype."""
        return SERVED

    @property
    def reads_texts(self) -> bool:
        """Whether the server can say how probable a text is."""
        return self.client.dialect.texts is not None

    @property
    def caches_texts(self) -> bool:
        """Whether its prefix cache serves prompts whose own tokens are scored."""
        texts = self.client.dialect.texts
        return texts is not None and texts.is_cached

    @property
    def computation(self) -> str:
        """The kind of server."""
        return self.client.dialect.name


class LazyServer:
    """A server as the user named it, opened on first use.

    Args:
        address: ``http://host:port[/v1][#MODEL]``.
        server: ``vllm``, ``sglang``, ``llama.cpp``, ``openai``, or ``auto`` to ask the server.
        tokenizer: Hub id, folder, ``.gguf`` file or embedded name; by default where the server
            says that it has the model from.
        reach: How it is reached; by default as the environment says.
    """

    is_named = False
    """The same address may have another model tomorrow."""

    def __init__(
        self,
        address: str,
        *,
        server: str = "auto",
        tokenizer: str = "",
        reach: Reach | None = None,
    ) -> None:
        self.name = address
        self._server = server
        self._tokenizer = tokenizer
        self._reach = reach or reach_of()
        self._address = parse_address(address, allow_http=self._reach.allow_http)
        self._opened: ServedModel | None = None

    @classmethod
    def of(cls, served: ServedModel) -> LazyServer:
        """A server that is open already."""
        lazy = cls.__new__(cls)
        lazy.name, lazy._opened = served.name, served
        return lazy

    def load(self) -> ServedModel:
        """The opened server.

        Raises:
            InputError: It cannot be reached, has no such model, or reads other tokens.
        """
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    @property
    def reads_texts(self) -> bool:
        """Whether the server can say how probable a text is."""
        return self.load().reads_texts

    def identity(self) -> ModelIdentity:
        """What the server says about its model, and its answers to known sentences."""
        served = self.load()
        reads = "yes" if served.reads_texts else "no"
        more = {"model_computation": served.computation, SERVER_TEXTS: reads}
        return ModelIdentity(served.fingerprint, served.dtype_name, more, served.probe)

    def files_digest(self) -> str:
        """Empty: the files of a server are not here."""
        return ""

    def may_differ(self, files: object) -> bool:
        """False: the server is compared when it has to score, and a finished run needs none."""
        return False

    def _open(self) -> ServedModel:
        from icm_fast.scoring.servers.client import Client
        from icm_fast.scoring.servers.transport import Transport
        from icm_fast.scoring.servers.verification import check_tokenizer

        transport = Transport(self._address, self._reach)
        listed = listed_model(transport, self._address)
        dialect = _dialect(self._server, transport, listed)
        facts = dialect.facts(transport, listed)
        name = self._tokenizer or _tokenizer_of(facts, transport.base)
        tokenizer = _read_tokenizer(name)
        if dialect.name == "openai":
            dialect = _with_texts(tokenizer)
        client = Client(transport, dialect, facts, self._reach.requests)
        if dialect.name == "openai":
            client = _narrowed(client, tokenizer, self._reach.requests)
        check = check_tokenizer(
            tokenizer,
            name,
            lambda text: dialect.tokenize(transport, facts.model, text),
            lambda text: client.answer(text, ()),
        )
        probe = client.begin(tokenizer, self.name)
        content = [dialect.name, facts.model, dict(facts.identity)]
        return ServedModel(
            name=self.name,
            tokenizer=tokenizer,
            fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
            max_context=facts.max_context or _length_of(tokenizer),
            client=client,
            probe=probe,
            token_check=check,
        )


def listed_model(transport: Transport, address: Address) -> Listed:
    """The model of a server that an address names, or its only one.

    Raises:
        InputError: It has none, or several of which none is named.
    """
    from icm_fast.scoring.servers.dialect import Listed, text

    found = transport.get("/v1/models")
    rows = found.get("data") if isinstance(found, dict) else None
    models = [
        Listed(text(row.get("id")), text(row.get("owned_by")), row)
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and text(row.get("id"))
    ]
    named = [model for model in models if model.name == address.model]
    if address.model:
        # Some providers list nothing, or not all of it.
        owner = models[0].owner if models else ""
        return named[0] if named else Listed(address.model, owner, {})
    if len(models) == 1:
        return models[0]
    if not models:
        raise InputError(
            f"{transport.base} lists no model at /v1/models; is this the address of an inference "
            "server? If it lists none on purpose, name one: ADDRESS#MODEL"
        )
    names = ", ".join(shown(model.name) for model in models[:8])
    raise InputError(
        f"{transport.base} has {len(models)} models ({names}); name one: {transport.base}#MODEL"
    )


def _dialect(server: str, transport: Transport, listed: Listed) -> Dialect:
    """The dialect of a server, asked for where it is not given."""
    from icm_fast.scoring.servers.llama_cpp import LlamaCpp
    from icm_fast.scoring.servers.openai import OpenAICompletions
    from icm_fast.scoring.servers.sglang import SGLang
    from icm_fast.scoring.servers.vllm import VLLM

    if server == "auto":
        server = _OWNERS.get(listed.owner, "")
    if not server:
        info = transport.get("/get_model_info")
        server = "sglang" if isinstance(info, dict) and "model_path" in info else "openai"
    made: Mapping[str, Dialect] = {
        "vllm": VLLM(),
        "sglang": SGLang(),
        "llama.cpp": LlamaCpp(),
        "openai": OpenAICompletions(str),
    }
    return made[server]


def _tokenizer_of(facts: ServerFacts, base: str) -> str:
    """Where the server says that it has the model from, if that can be read here."""
    source = facts.source
    check_name("model of the server", source)
    is_here = Path(source).is_dir() or (source.endswith(".gguf") and Path(source).is_file())
    if is_here or (source.count("/") == 1 and not source.startswith(("/", "."))):
        return source
    raise InputError(
        f"the tokenizer of {base} is not known: its model is {shown(source)}, which is not a hub "
        "id or a folder here; name it with --tokenizer (a hub id or a folder)"
    )


def _read_tokenizer(name: str) -> PreTrainedTokenizerBase:
    from icm_fast.model.load import load_tokenizer

    return load_tokenizer(name)


def _length_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Longest context that a tokenizer knows of; transformers writes a huge number for none."""
    return min(int(tokenizer.model_max_length), 2**31 - 1)


def _with_texts(tokenizer: PreTrainedTokenizerBase) -> Dialect:
    """The dialect that finds tokens by their texts."""
    from icm_fast.scoring.servers.openai import OpenAICompletions

    def token_text(token: int) -> str:
        raw = str(tokenizer.convert_ids_to_tokens(token))
        if "\u2581" in raw:  # SentencePiece's blank, which decoding one token would drop
            return raw.replace("\u2581", " ")
        decoded = tokenizer.decode([token])
        # A part of a character has no text that would tell it from other parts.
        return "" if "\ufffd" in decoded else str(decoded)

    return OpenAICompletions(token_text)


def _narrowed(client: Client, tokenizer: PreTrainedTokenizerBase, requests: int) -> Client:
    """The same client, asking for fewer tokens where the server refuses 20."""
    from icm_fast.scoring.servers.client import Client
    from icm_fast.scoring.servers.openai import TOP_OF_OLD_SERVERS
    from icm_fast.scoring.servers.transport import RefusedError

    try:
        client.answer("a", ())
    except RefusedError as error:
        if error.status not in (400, 422):
            raise
    else:
        return client
    dialect = _with_texts(tokenizer)
    dialect.first_width = TOP_OF_OLD_SERVERS
    return Client(client.transport, dialect, client.facts, requests)
