#include "tests/attention_problem.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "cpu/aligned_buffer.hpp"
#include "tests/check.hpp"

namespace icm_fast::tests {
namespace {

// The layer in use; the one before it shows mistakes in offsets.
constexpr std::int64_t kLayer = 1;

// Slots of ancestors: every second one first, so that neighbours in the context are none here.
std::vector<std::int64_t> place(const std::vector<std::int64_t>& counts, std::int64_t& slot) {
    std::vector<std::int64_t> slots(counts.size());
    for (const std::size_t first : {1U, 0U}) {
        for (std::size_t k = first; k < counts.size(); k += 2) {
            slots[k] = ++slot;  // behind a hole
            slot += counts[k];
        }
    }
    return slots;
}

}  // namespace

Layout lay_out(const std::vector<SegmentSizes>& sizes) {
    Layout layout;
    std::int64_t slot = 0;
    for (const SegmentSizes& size : sizes) {
        cpu::Segment segment{layout.n_tokens, layout.n_tokens + size.own, 0, {}};
        const std::vector<std::int64_t> slots = place(size.ancestors, slot);
        for (std::size_t k = 0; k < slots.size(); ++k) {
            segment.ranges.push_back({slots[k], size.ancestors[k], segment.start});
            segment.start += size.ancestors[k];
        }
        slot += 2;
        segment.ranges.push_back({slot, size.own, segment.start});
        slot += size.own;
        layout.n_tokens = segment.end;
        layout.segments.push_back(std::move(segment));
    }
    layout.n_slots = slot % 2 == 0 ? slot + 1 : slot;
    return layout;
}

std::vector<double> plain_attention(const PlainInputs& inputs, const cpu::Segment& segment,
                                    std::int64_t token, std::int64_t head,
                                    const cpu::AttentionOptions& options) {
    const std::int64_t dim = inputs.head_dim;
    const std::int64_t n_heads = inputs.group * inputs.n_kv_heads;
    const float* query = inputs.query.data() + (token * n_heads + head) * dim;
    const std::int64_t position = segment.start + token - segment.begin;
    std::vector<double> out(to_size(dim), 0.0);
    double total = options.sinks == nullptr ? 0.0 : std::exp(options.sinks[head]);
    for (const cpu::KeyRange& range : segment.ranges) {
        for (std::int64_t k = 0; k < range.count; ++k) {
            const std::int64_t at = range.position + k;
            if (at > position) continue;
            if (options.window > 0 && at <= position - options.window) continue;
            const std::int64_t row = (range.slot + k) * inputs.n_kv_heads + head / inputs.group;
            const float* key = inputs.keys.data() + row * dim;
            const float* value = inputs.values.data() + row * dim;
            double score = 0.0;
            for (std::int64_t d = 0; d < dim; ++d) score += double{query[d]} * key[d];
            score *= options.scaling;
            if (options.softcap > 0.0F)
                score = options.softcap * std::tanh(score / options.softcap);
            const double weight = std::exp(score);
            total += weight;
            for (std::int64_t d = 0; d < dim; ++d) out[to_size(d)] += weight * value[d];
        }
    }
    for (double& value : out) value /= total;
    return out;
}

AttentionProblem::AttentionProblem(const cpu::Ops& ops, const std::vector<SegmentSizes>& sizes,
                                   std::int64_t group, std::int64_t head_dim, float garbage)
    : ops_(ops),
      group_(group),
      head_dim_(head_dim),
      layout_(lay_out(sizes)),
      query_(rounded(ops, random_floats(layout_.n_tokens * n_heads() * head_dim, 1))),
      keys_(rounded(ops, random_floats(layout_.n_slots * kKvHeads * head_dim, 2))),
      values_(rounded(ops, random_floats(layout_.n_slots * kKvHeads * head_dim, 3))),
      pool_(ops, {2, kKvHeads, head_dim, layout_.n_slots}) {
    fill(garbage);
}

void AttentionProblem::fill(float garbage) {
    for (std::int64_t slot = 0; slot < layout_.n_slots; ++slot) write(slot, garbage, garbage);
    for (const cpu::Segment& segment : layout_.segments) {
        for (const cpu::KeyRange& range : segment.ranges) {
            for (std::int64_t slot = range.slot; slot < range.slot + range.count; ++slot) {
                for (std::int64_t head = 0; head < kKvHeads; ++head) {
                    pool_.write(kLayer, head, slot, row(keys_, slot, head),
                                row(values_, slot, head));
                }
            }
        }
    }
}

void AttentionProblem::write(std::int64_t slot, float key, float value) {
    const Floats keys(to_size(head_dim_), key);
    const Floats values(to_size(head_dim_), value);
    for (std::int64_t head = 0; head < kKvHeads; ++head) {
        pool_.write(kLayer, head, slot, keys.data(), values.data());
    }
}

Floats AttentionProblem::run(const cpu::AttentionOptions& options, bool last_only) {
    const cpu::AttentionShape shape{n_heads(), kKvHeads, head_dim_};
    const Words query = stored(ops_, query_);
    Words out(query.size(), kNanWord);
    cpu::AlignedBuffer<float> scratch(cpu::attend_scratch_floats(head_dim_));
    for (const cpu::AttentionTile& tile :
         cpu::make_tiles(ops_, layout_.segments, shape, last_only)) {
        std::fill_n(scratch.data(), scratch.size(), kNan);
        cpu::attend_tile(ops_, tile, layout_.segments[to_size(tile.segment)], shape, options,
                         query.data(), pool_, kLayer, out.data(), scratch.data());
    }
    return loaded(ops_, out);
}

void AttentionProblem::check(const cpu::AttentionOptions& options) {
    const Input input("group " + std::to_string(group_) + " head_dim " + std::to_string(head_dim_) +
                      " window " + std::to_string(options.window) + " softcap " +
                      std::to_string(options.softcap));
    // Values are at most 1; bfloat16 rounds weights and outputs by up to 1 / 256 each.
    const double most = is_float32(ops_) ? 5e-6 : 8e-3;
    const PlainInputs inputs{query_, keys_, values_, kKvHeads, group_, head_dim_};
    const Floats got = run(options);
    const float* at = got.data();
    for (const cpu::Segment& segment : layout_.segments) {
        for (std::int64_t token = segment.begin; token < segment.end; ++token) {
            for (std::int64_t head = 0; head < n_heads(); ++head, at += head_dim_) {
                const std::vector<double> wanted =
                    plain_attention(inputs, segment, token, head, options);
                const Input row("token " + std::to_string(token) + " head " + std::to_string(head));
                for (std::size_t d = 0; d < wanted.size(); ++d) {
                    CHECK_NEAR(static_cast<double>(at[d]), wanted[d], most);
                }
            }
        }
    }
}

}  // namespace icm_fast::tests
