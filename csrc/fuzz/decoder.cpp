// Decoders of any small shape and batches of any form: refused, or the same bits however the
// segments are put into batches.
#include "cpu/decoder.hpp"

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "fuzz/bytes.hpp"
#include "tests/inputs.hpp"
#include "tests/tiny_decoder.hpp"

namespace icm_fast::fuzz {
namespace {

using tests::Floats;
using tests::to_size;

// Segments that follow each other in a tree, with their slots.
struct Node {
    std::int64_t parent, n_tokens, slot, start;
};

std::vector<Node> random_tree(Bytes& bytes) {
    std::vector<Node> nodes;
    const std::int64_t n = bytes.between(1, 6);
    std::int64_t slot = 2 * bytes.between(0, 2);
    for (std::int64_t k = 0; k < n; ++k) {
        const std::int64_t parent = bytes.between(-1, k - 1);
        const std::int64_t n_tokens = bytes.between(1, bytes.rarely() ? 110 : 9);
        const std::int64_t start =
            parent < 0 ? 0 : nodes[to_size(parent)].start + nodes[to_size(parent)].n_tokens;
        nodes.push_back({parent, n_tokens, slot, start});
        slot += (n_tokens + 1) / 2 * 2;  // an even slot, as plans have
    }
    return nodes;
}

std::int64_t n_slots(const std::vector<Node>& nodes) {
    return nodes.back().slot + (nodes.back().n_tokens + 1) / 2 * 2;
}

cpu::Batch make_batch(const std::vector<Node>& nodes, const std::vector<std::int64_t>& members) {
    cpu::Batch batch;
    for (const std::int64_t member : members) {
        cpu::Segment segment{batch.n_tokens,
                             batch.n_tokens + nodes[to_size(member)].n_tokens,
                             nodes[to_size(member)].start,
                             {}};
        for (std::int64_t at = member; at >= 0; at = nodes[to_size(at)].parent) {
            const Node& node = nodes[to_size(at)];
            segment.ranges.insert(segment.ranges.begin(), {node.slot, node.n_tokens, node.start});
        }
        batch.n_tokens = segment.end;
        batch.segments.push_back(std::move(segment));
        batch.wanted.push_back(1);
    }
    return batch;
}

Floats embeddings(const cpu::Batch& batch, std::int64_t hidden) {
    Floats rows;
    for (const cpu::Segment& segment : batch.segments) {
        const auto seed = static_cast<std::uint64_t>(segment.ranges.back().slot);
        const Floats own = tests::random_floats((segment.end - segment.begin) * hidden, seed);
        rows.insert(rows.end(), own.begin(), own.end());
    }
    return rows;
}

// The last hidden state of every segment, from batches that run one after the other.
Floats run(cpu::Decoder& decoder, const std::vector<Node>& nodes,
           const std::vector<std::vector<std::int64_t>>& batches) {
    const std::int64_t hidden = decoder.shape().hidden;
    cpu::KvPool pool(decoder.ops(), decoder.kv_shape(n_slots(nodes)));
    const auto rotary = tests::make_rotary(decoder.shape(), 800);
    Floats states(nodes.size() * to_size(hidden), tests::kNan);
    for (const std::vector<std::int64_t>& members : batches) {
        const cpu::Batch batch = make_batch(nodes, members);
        Floats out(members.size() * to_size(hidden), tests::kNan);
        decoder.forward(batch, embeddings(batch, hidden), rotary, pool, out);
        for (std::size_t k = 0; k < members.size(); ++k) {
            std::copy_n(out.data() + k * to_size(hidden), hidden,
                        states.data() + members[k] * hidden);
        }
    }
    return states;
}

// Batches in which every parent comes earlier: one segment each, or all of one depth.
std::vector<std::vector<std::int64_t>> one_by_one(const std::vector<Node>& nodes) {
    std::vector<std::vector<std::int64_t>> batches;
    for (std::size_t k = 0; k < nodes.size(); ++k) batches.push_back({static_cast<int>(k)});
    return batches;
}

std::vector<std::vector<std::int64_t>> by_depth(const std::vector<Node>& nodes) {
    std::vector<std::vector<std::int64_t>> batches;
    std::vector<std::size_t> depth;
    for (std::size_t k = 0; k < nodes.size(); ++k) {
        depth.push_back(nodes[k].parent < 0 ? 0 : depth[to_size(nodes[k].parent)] + 1);
        if (depth.back() == batches.size()) batches.emplace_back();
        batches[depth.back()].push_back(static_cast<std::int64_t>(k));
    }
    return batches;
}

// Some number of a batch is another one: it is refused, or runs inside its memory.
void spoil(Bytes& bytes, cpu::Batch& batch) {
    cpu::Segment& segment = batch.segments[to_size(bytes.between(0, 255)) % batch.segments.size()];
    cpu::KeyRange& range = segment.ranges[to_size(bytes.between(0, 255)) % segment.ranges.size()];
    std::int64_t* const places[] = {&segment.begin, &segment.end,    &segment.start, &range.slot,
                                    &range.count,   &range.position, &batch.n_tokens};
    *places[bytes.between(0, 6)] = bytes.number(-2, 60);
    if (bytes.rarely()) batch.wanted.pop_back();
    if (bytes.rarely() && !batch.wanted.empty()) {
        batch.wanted.front() = static_cast<std::uint8_t>(bytes.between(0, 255));
    }
    if (bytes.rarely()) segment.ranges.pop_back();
}

cpu::DecoderShape random_shape(Bytes& bytes) {
    const std::int64_t n_kv_heads = bytes.number(1, 3);
    const bool is_odd = bytes.rarely();
    const std::int64_t group = bytes.between(1, 3);
    std::int64_t n_heads = 0;
    if (__builtin_mul_overflow(n_kv_heads, group, &n_heads)) n_heads = n_kv_heads;
    return {.hidden = is_odd ? bytes.number(1, 40) : 2 * bytes.between(1, 24),
            .intermediate = bytes.rarely() ? bytes.number(1, 600) : bytes.between(1, 60),
            .n_heads = n_heads,
            .n_kv_heads = n_kv_heads,
            .head_dim = is_odd ? bytes.number(1, 20) : 2 * bytes.between(1, 10),
            .n_layers = bytes.between(1, 2),
            .norm_eps = 1e-6F,
            .activation = bytes.flag() ? cpu::Activation::kSilu : cpu::Activation::kGeluTanh};
}

bool is_small(const cpu::DecoderShape& shape) {
    for (const std::int64_t size : {shape.hidden, shape.intermediate, shape.n_heads,
                                    shape.n_kv_heads, shape.head_dim, shape.n_layers}) {
        if (size < 1 || size > 700) return false;
    }
    return true;
}

void check_batches(Bytes& bytes, cpu::Decoder& decoder) {
    const std::vector<Node> nodes = random_tree(bytes);
    const Floats single = run(decoder, nodes, one_by_one(nodes));
    const Floats together = run(decoder, nodes, by_depth(nodes));
    expect(std::memcmp(single.data(), together.data(), single.size() * sizeof(float)) == 0,
           "what a segment is batched with changes its bits");
    for (const float value : single) expect(value == value, "a state is not a number");
    cpu::Batch batch = make_batch(nodes, by_depth(nodes).back());
    const Floats rows = embeddings(batch, decoder.shape().hidden);
    Floats out(batch.segments.size() * to_size(decoder.shape().hidden));
    spoil(bytes, batch);
    cpu::KvPool pool(decoder.ops(), decoder.kv_shape(n_slots(nodes)));
    const auto rotary = tests::make_rotary(decoder.shape(), bytes.between(1, 300));
    is_refused([&] { decoder.forward(batch, rows, rotary, pool, out); });
}

void fuzz_decoder(Bytes& bytes) {
    std::size_t count = 0;
    const cpu::Ops* const* tables = cpu::available_ops(count);
    const cpu::Ops& ops = *tables[to_size(bytes.between(0, 255)) % count];
    std::size_t n_int8 = 0;
    const cpu::Int8Ops* const* int8_tables = cpu::available_int8_ops(n_int8);
    const bool is_int8 = n_int8 > 0 && bytes.between(0, 3) == 0;
    const cpu::Int8Ops* int8 =
        is_int8 ? int8_tables[to_size(bytes.between(0, 255)) % n_int8] : nullptr;
    const cpu::DecoderShape shape = random_shape(bytes);
    const auto parts = bytes.flag() ? tests::Parts::kAll : tests::Parts::kFewest;
    const auto n_threads = static_cast<std::int32_t>(bytes.between(0, 2));
    try {
        if (!is_small(shape)) {
            // Buffers of gigabytes are allowed, but say nothing.
            if (shape.hidden < 1 || shape.head_dim < 1 || shape.n_heads < 1) {
                const cpu::Decoder refused(ops, int8, shape, 1);
                wrong("a decoder without a size");
            }
            return;
        }
        cpu::Decoder decoder(ops, int8, shape, n_threads);
        for (std::int64_t k = 0; k < shape.n_layers; ++k) {
            tests::TinyLayer layer = tests::make_layer(shape, parts, k);
            if (bytes.rarely() && !layer.down.empty()) layer.down.pop_back();
            if (bytes.rarely()) layer.key_bias.clear();
            if (bytes.rarely()) layer.window = bytes.number(-1, 40);
            if (bytes.rarely()) layer.rotary = bytes.number(-1, 2);
            decoder.add_layer(layer.source());
        }
        check_batches(bytes, decoder);
    } catch (const std::invalid_argument&) {
    }
}

}  // namespace
}  // namespace icm_fast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    icm_fast::fuzz::Bytes bytes(data, size);
    icm_fast::fuzz::fuzz_decoder(bytes);
    return 0;
}
