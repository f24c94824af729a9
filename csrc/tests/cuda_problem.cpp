#include "tests/cuda_problem.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "tests/check.hpp"
#include "tests/cuda_emulation.hpp"

namespace icm_fast::tests {
namespace {

constexpr std::uint16_t kNanHalf = 0x7FFF;  // in both formats
constexpr std::int64_t kGuardRows = 40;

std::uint16_t rounded(cuda::Dtype dtype, float value) {
    return dtype == cuda::Dtype::kBfloat16 ? cuda::Bfloat16::round(value)
                                           : cuda::Float16::round(value);
}

float widened(cuda::Dtype dtype, std::uint16_t bits) {
    return dtype == cuda::Dtype::kBfloat16 ? cuda::Bfloat16::widen(bits)
                                           : cuda::Float16::widen(bits);
}

std::int32_t narrow(std::int64_t n) { return static_cast<std::int32_t>(n); }

}  // namespace

CudaProblem::CudaProblem(const std::vector<SegmentSizes>& sizes, const CudaShape& shape)
    : shape_(shape), layout_(lay_out(sizes)) {
    const auto numbers = [&](std::int64_t rows, std::uint64_t seed) {
        Floats values = random_floats(rows * shape_.head_dim, seed);
        for (float& value : values) value = widened(shape_.dtype, rounded(shape_.dtype, value));
        return values;
    };
    query_ = numbers(layout_.n_tokens * n_heads(), 1);
    keys_ = numbers(layout_.n_slots * kKvHeads, 2);
    values_ = numbers(layout_.n_slots * kKvHeads, 3);
    add_segments();
    std::vector<bool> used(to_size(layout_.n_slots), false);
    for (const cpu::Segment& segment : layout_.segments) {
        for (const cpu::KeyRange& range : segment.ranges) {
            std::fill_n(used.begin() + range.slot, range.count, true);
        }
    }
    device_query_ = guarded(stored(query_));
    device_keys_ = guarded(stored(keys_));
    device_values_ = guarded(stored(values_));
    for (std::int64_t slot = 0; slot < layout_.n_slots; ++slot) {
        if (!used[to_size(slot)]) write(slot, kNan, kNan);
    }
}

void CudaProblem::add_segments() {
    for (const cpu::Segment& segment : layout_.segments) {
        const std::int32_t first = narrow(std::ssize(ranges_));
        for (const cpu::KeyRange& range : segment.ranges) {
            ranges_.push_back({narrow(range.position), narrow(range.slot)});
        }
        segments_.push_back({narrow(segment.begin), narrow(segment.end - segment.begin),
                             narrow(segment.start), first, narrow(std::ssize(ranges_))});
    }
}

CudaProblem::Halves CudaProblem::stored(const Floats& values) const {
    Halves halves(values.size());
    std::ranges::transform(values, halves.begin(),
                           [&](float value) { return rounded(shape_.dtype, value); });
    return halves;
}

CudaProblem::Halves CudaProblem::guarded(const Halves& values) const {
    Halves all(values.size() + 2 * to_size(kGuardRows * shape_.head_dim), kNanHalf);
    std::ranges::copy(values, all.begin() + kGuardRows * shape_.head_dim);
    return all;
}

cuda::HeadRows CudaProblem::rows(Halves& values, std::int64_t heads) const {
    return {values.data() + kGuardRows * shape_.head_dim, shape_.head_dim, heads * shape_.head_dim};
}

void CudaProblem::write(std::int64_t slot, float key, float value) {
    const std::int64_t begin = (kGuardRows + slot * kKvHeads) * shape_.head_dim;
    const std::int64_t n = kKvHeads * shape_.head_dim;
    std::fill_n(device_keys_.begin() + begin, n, rounded(shape_.dtype, key));
    std::fill_n(device_values_.begin() + begin, n, rounded(shape_.dtype, value));
}

cuda::AttentionCall CudaProblem::make_call(const cpu::AttentionOptions& options,
                                           std::int32_t keys_per_split) {
    const auto n_segments = narrow(std::ssize(segments_));
    const auto group = narrow(shape_.group);
    const auto products = static_cast<std::int32_t>(shape_.products);
    const std::int32_t tile_rows = cuda::icm_fast_cuda_tile_rows(products, narrow(shape_.head_dim));
    cuda::TileCounts counts{};
    cuda::icm_fast_cuda_plan_tiles(segments_.data(), n_segments, group, tile_rows, keys_per_split,
                                   &counts, nullptr, nullptr);
    tiles_.assign(to_size(counts.tiles), {});
    merges_.assign(to_size(counts.merges), {});
    cuda::icm_fast_cuda_plan_tiles(segments_.data(), n_segments, group, tile_rows, keys_per_split,
                                   &counts, tiles_.data(), merges_.data());
    const std::int64_t n_partial_rows = counts.partials * kKvHeads * tile_rows;
    partial_out_.assign(to_size(n_partial_rows * shape_.head_dim), kNan);
    partial_lse_.assign(to_size(n_partial_rows), kNan);
    device_out_ = guarded(Halves(query_.size(), kNanHalf));
    return {.query = rows(device_query_, n_heads()),
            .keys = rows(device_keys_, kKvHeads),
            .values = rows(device_values_, kKvHeads),
            .out = rows(device_out_, n_heads()),
            .segments = segments_.data(),
            .ranges = ranges_.data(),
            .tiles = tiles_.data(),
            .merges = merges_.data(),
            .sinks = options.sinks,
            .partial_out = partial_out_.data(),
            .partial_lse = partial_lse_.data(),
            .n_tiles = counts.tiles,
            .n_merges = counts.merges,
            .n_kv_heads = narrow(kKvHeads),
            .n_slots = narrow(layout_.n_slots),
            .group = group,
            .head_dim = narrow(shape_.head_dim),
            .dtype = static_cast<std::int32_t>(shape_.dtype),
            .products = products,
            .tile_rows = tile_rows,
            .window = narrow(options.window),
            .scaling = options.scaling,
            .softcap = options.softcap};
}

Floats CudaProblem::output() const {
    const std::size_t guard = to_size(kGuardRows * shape_.head_dim);
    Floats out;
    for (std::size_t k = 0; k < device_out_.size(); ++k) {
        const bool inside = k >= guard && k < device_out_.size() - guard;
        if (inside) {
            out.push_back(widened(shape_.dtype, device_out_[k]));
        } else if (device_out_[k] != kNanHalf) {
            FAIL("a row outside the output was written");
        }
    }
    return out;
}

Floats CudaProblem::run(const cpu::AttentionOptions& options, std::int32_t keys_per_split) {
    const cuda::AttentionCall call = make_call(options, keys_per_split);
    const std::int32_t status = cuda::icm_fast_cuda_tree_attention(&call, nullptr);
    if (status != cuda::kOk) FAIL(cuda::icm_fast_cuda_status_text(status));
    const Floats out = output();
    for (const float value : out) CHECK(!std::isnan(value));
    return out;
}

std::int32_t CudaProblem::status_of(void (*change)(cuda::AttentionCall&)) {
    cuda::AttentionCall call = make_call({.scaling = 1.0F}, 0);
    change(call);
    return cuda::icm_fast_cuda_tree_attention(&call, nullptr);
}

bool CudaProblem::copies_boxes() {
    const cuda::AttentionCall call = make_call({.scaling = 1.0F}, 0);
    return cuda::icm_fast_cuda_copies_boxes(&call) == 1;
}

double CudaProblem::check(const cpu::AttentionOptions& options, std::int32_t keys_per_split) {
    const Input input("group " + std::to_string(shape_.group) + " head_dim " +
                      std::to_string(shape_.head_dim) + " window " +
                      std::to_string(options.window) + " softcap " +
                      std::to_string(options.softcap) + " split " + std::to_string(keys_per_split));
    const PlainInputs inputs{query_, keys_, values_, kKvHeads, shape_.group, shape_.head_dim};
    const Floats got = run(options, keys_per_split);
    double largest = 0.0;
    double difference = 0.0;
    const float* at = got.data();
    for (const cpu::Segment& segment : layout_.segments) {
        for (std::int64_t token = segment.begin; token < segment.end; ++token) {
            for (std::int64_t head = 0; head < n_heads(); ++head) {
                for (const double wanted : plain_attention(inputs, segment, token, head, options)) {
                    largest = std::max(largest, std::abs(wanted));
                    difference = std::max(difference, std::abs(wanted - *at++));
                }
            }
        }
    }
    // Weights and outputs are rounded to 8 and 11 bits.
    const double most = shape_.dtype == cuda::Dtype::kBfloat16 ? 1e-2 : 1.5e-3;
    CHECK_NEAR(difference, 0.0, most * largest);
    return difference / largest;
}

}  // namespace icm_fast::tests
