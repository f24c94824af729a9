// Binds the CPU decoder: `CpuDecoder`, `KvPool`, `TreeAttention` and `cpu_isas`.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/guarded.hpp"
#include "cpu/decoder.hpp"
#include "cpu/int8_ops.hpp"
#include "cpu/kv_pool.hpp"
#include "cpu/ops.hpp"
#include "cpu/tree_attention.hpp"

namespace py = pybind11;

namespace icm_fast {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Integers = py::array_t<std::int64_t, py::array::c_style>;
using Bytes = py::array_t<std::uint8_t, py::array::c_style>;

template <typename T>
std::span<const T> view(const py::array_t<T, py::array::c_style>& array) {
    return {array.data(), static_cast<std::size_t>(array.size())};
}

cpu::Format parse_format(const std::string& dtype) {
    if (dtype == "float32") return cpu::Format::kFloat32;
    if (dtype == "bfloat16") return cpu::Format::kBfloat16;
    throw std::invalid_argument("dtype " + dtype + " has no CPU kernels; use float32 or bfloat16");
}

cpu::Activation parse_activation(const std::string& name) {
    if (name == "silu") return cpu::Activation::kSilu;
    if (name == "gelu_tanh") return cpu::Activation::kGeluTanh;
    throw std::invalid_argument("unknown activation " + name + "; use silu or gelu_tanh");
}

const cpu::Ops* find_ops(const std::string& dtype) { return cpu::pick_ops(parse_format(dtype)); }

const cpu::Ops& require_ops(const std::string& dtype) {
    const cpu::Ops* ops = find_ops(dtype);
    if (ops == nullptr) {
        throw std::invalid_argument("this processor has no " + dtype +
                                    " dot products; use float32");
    }
    return *ops;
}

// Segments of one packed batch as flat arrays: tokens and own slot of each, and the ranges of its
// ancestors from range_offsets[s] to range_offsets[s + 1].
struct SegmentArrays {
    std::span<const std::int64_t> n_tokens, own, range_offsets, range_begin, range_end;
};

[[noreturn]] void refuse_numbers() {
    throw std::invalid_argument("tokens and ranges of the segments are beyond 64 bits");
}

std::int64_t sum(std::int64_t a, std::int64_t b) {
    std::int64_t result = 0;
    if (__builtin_add_overflow(a, b, &result)) refuse_numbers();
    return result;
}

std::int64_t difference(std::int64_t a, std::int64_t b) {
    std::int64_t result = 0;
    if (__builtin_sub_overflow(a, b, &result)) refuse_numbers();
    return result;
}

std::vector<cpu::Segment> make_segments(const SegmentArrays& arrays) {
    const std::size_t n = arrays.n_tokens.size();
    if (arrays.own.size() != n || arrays.range_offsets.size() != n + 1 ||
        arrays.range_begin.size() != arrays.range_end.size()) {
        throw std::invalid_argument("segment arrays differ in length");
    }
    std::vector<cpu::Segment> segments(n);
    std::int64_t row = 0;
    for (std::size_t s = 0; s < n; ++s) {
        cpu::Segment& segment = segments[s];
        std::int64_t position = 0;
        for (auto r = arrays.range_offsets[s]; r < arrays.range_offsets[s + 1]; ++r) {
            if (r < 0 || r >= static_cast<std::int64_t>(arrays.range_begin.size())) {
                throw std::invalid_argument("range_offsets lie outside the ranges");
            }
            const auto at = static_cast<std::size_t>(r);
            const std::int64_t begin = arrays.range_begin[at];
            const std::int64_t count = difference(arrays.range_end[at], begin);
            segment.ranges.push_back({begin, count, position});
            position = sum(position, count);
        }
        segment.ranges.push_back({arrays.own[s], arrays.n_tokens[s], position});
        segment.begin = row;
        segment.end = sum(row, arrays.n_tokens[s]);
        segment.start = position;
        row = segment.end;
    }
    return segments;
}

std::span<const float> optional_view(const py::dict& arrays, const char* name) {
    if (!arrays.contains(name)) return {};
    return view(arrays[name].cast<Floats>());
}

void add_layer(cpu::Decoder& decoder, const py::dict& arrays, std::int64_t rotary,
               std::int64_t window, float scaling, float softcap) {
    // The arrays live in `arrays` for the length of the call; a cast that had to copy would not.
    for (const auto& item : arrays) {
        if (!py::isinstance<Floats>(item.second)) {
            throw std::invalid_argument("weights must be contiguous float32 arrays");
        }
    }
    const auto get = [&](const char* name) { return optional_view(arrays, name); };
    const cpu::LayerSource source{.query = get("query"),
                                  .key = get("key"),
                                  .value = get("value"),
                                  .output = get("output"),
                                  .gate = get("gate"),
                                  .up = get("up"),
                                  .down = get("down"),
                                  .query_bias = get("query_bias"),
                                  .key_bias = get("key_bias"),
                                  .value_bias = get("value_bias"),
                                  .input_norm = get("input_norm"),
                                  .post_attention_norm = get("post_attention_norm"),
                                  .feed_forward_norm = get("feed_forward_norm"),
                                  .post_feed_forward_norm = get("post_feed_forward_norm"),
                                  .query_norm = get("query_norm"),
                                  .key_norm = get("key_norm"),
                                  .rotary = rotary,
                                  .window = window,
                                  .scaling = scaling,
                                  .softcap = softcap};
    const py::gil_scoped_release release;
    decoder.add_layer(source);
}

// Immutable once made.
struct RotaryTables {
    std::vector<cpu::RotaryTable> tables;
};

RotaryTables make_rotary(const cpu::Decoder& decoder,
                         const std::vector<std::pair<Floats, Floats>>& tables) {
    RotaryTables rotary;
    for (const auto& [cosine, sine] : tables) {
        if (cosine.ndim() != 2 || sine.ndim() != 2 || cosine.size() != sine.size() ||
            2 * cosine.shape(1) > decoder.shape().head_dim) {
            throw std::invalid_argument("rotary tables must be [n_positions, half] each");
        }
        const auto c = view(cosine);
        const auto s = view(sine);
        rotary.tables.push_back({.half = cosine.shape(1),
                                 .n_positions = cosine.shape(0),
                                 .cosine = {c.begin(), c.end()},
                                 .sine = {s.begin(), s.end()}});
    }
    return rotary;
}

Floats forward(cpu::Decoder& decoder, cpu::KvPool& pool, const RotaryTables& rotary,
               const Floats& embeddings, const Integers& n_tokens, const Integers& own,
               const Integers& range_offsets, const Integers& range_begin,
               const Integers& range_end, const Bytes& wanted) {
    cpu::Batch batch;
    batch.segments = make_segments(
        {view(n_tokens), view(own), view(range_offsets), view(range_begin), view(range_end)});
    batch.n_tokens = batch.segments.empty() ? 0 : batch.segments.back().end;
    const auto which = view(wanted);
    batch.wanted.assign(which.begin(), which.end());
    if (batch.wanted.size() != batch.segments.size()) {
        throw std::invalid_argument("wanted needs one entry per segment");
    }
    // What does not fit is refused below; nothing is allocated for it.
    const std::int64_t rows = std::clamp<std::int64_t>(
        cpu::n_wanted_rows(batch), 0, embeddings.ndim() > 0 ? embeddings.shape(0) : 0);
    Floats out({rows, decoder.shape().hidden});
    const std::span<float> states(out.mutable_data(), static_cast<std::size_t>(out.size()));
    {
        const py::gil_scoped_release release;
        decoder.forward(batch, view(embeddings), rotary.tables, pool, states);
    }
    return out;
}

// Attention alone, for models whose layers run elsewhere.
class TreeAttention {
  public:
    TreeAttention(const std::string& dtype, std::int32_t n_threads)
        : ops_(&require_ops(dtype)), threads_(n_threads < 1 ? 1 : n_threads) {}

    [[nodiscard]] std::unique_ptr<cpu::KvPool> make_pool(std::int64_t n_layers,
                                                         std::int64_t n_heads,
                                                         std::int64_t head_dim,
                                                         std::int64_t n_slots) const {
        return std::make_unique<cpu::KvPool>(*ops_,
                                             cpu::KvShape{n_layers, n_heads, head_dim, n_slots});
    }

    // query [tokens, heads, head_dim] -> the same shape.
    Floats attend(cpu::KvPool& pool, std::int64_t layer, const Floats& query,
                  const Integers& n_tokens, const Integers& own, const Integers& range_offsets,
                  const Integers& range_begin, const Integers& range_end, float scaling,
                  std::int64_t window, float softcap, const std::optional<Floats>& sinks) {
        const auto segments = make_segments(
            {view(n_tokens), view(own), view(range_offsets), view(range_begin), view(range_end)});
        check(pool, layer, query, segments, sinks);
        const cpu::AttentionShape shape{query.shape(1), pool.shape().n_heads, query.shape(2)};
        const cpu::AttentionOptions options{
            .scaling = scaling,
            .softcap = softcap,
            .window = window,
            .sinks = sinks ? sinks->data() : nullptr,
        };
        Floats out({query.shape(0), query.shape(1), query.shape(2)});
        float* const result = out.mutable_data();
        const std::span<const float> rows = view(query);
        const py::gil_scoped_release release;
        // Nothing but the threads is kept from call to call, and they know of forks.
        const cpu::CallLock::Turn turn(calls_, [] {});
        const cpu::CallLock::Turn pool_turn(pool.calls());
        run(pool, layer, rows, segments, shape, options, result);
        return out;
    }

    [[nodiscard]] const char* isa() const { return ops_->name; }

  private:
    void check(const cpu::KvPool& pool, std::int64_t layer, const Floats& query,
               std::span<const cpu::Segment> segments, const std::optional<Floats>& sinks) const {
        const cpu::KvShape& kv = pool.shape();
        if (pool.ops().format != ops_->format) {
            throw std::invalid_argument("the pool was made for another dtype");
        }
        if (query.ndim() != 3 || query.shape(2) != kv.head_dim ||
            query.shape(1) % kv.n_heads != 0) {
            throw std::invalid_argument("query must be [tokens, heads, head_dim] of the pool");
        }
        if (layer < 0 || layer >= kv.n_layers) throw std::invalid_argument("no such layer");
        if (sinks && sinks->size() != query.shape(1)) {
            throw std::invalid_argument("sinks must be [heads]");
        }
        if ((segments.empty() ? 0 : segments.back().end) != query.shape(0)) {
            throw std::invalid_argument("segments must cover all query rows");
        }
        for (const cpu::Segment& segment : segments) {
            for (const cpu::KeyRange& range : segment.ranges) {
                if (range.slot < 0 || range.count < 1 || range.count > kv.n_slots - range.slot) {
                    throw std::invalid_argument("a range is outside the pool");
                }
            }
        }
    }

    void run(cpu::KvPool& pool, std::int64_t layer, std::span<const float> query,
             std::span<const cpu::Segment> segments, const cpu::AttentionShape& shape,
             const cpu::AttentionOptions& options, float* result) {
        const auto n = static_cast<std::int64_t>(query.size());
        if (n == 0) return;
        cpu::AlignedBuffer<cpu::Word> words(n / ops_->values_per_word);
        cpu::AlignedBuffer<cpu::Word> attended(n / ops_->values_per_word);
        ops_->store(query.data(), n, words.data());
        const auto tiles = cpu::make_tiles(*ops_, segments, shape, false);
        // Before the threads start: they must not throw.
        std::vector<cpu::AlignedBuffer<float>> scratch(static_cast<std::size_t>(threads_.size()));
        for (auto& buffer : scratch) buffer.resize(cpu::attend_scratch_floats(shape.head_dim));
        cpu::Tickets tickets;
        threads_.run([&](std::int32_t thread) {
            const auto n_tiles = static_cast<std::int64_t>(tiles.size());
            for (std::int64_t t = tickets.take(); t < n_tiles; t = tickets.take()) {
                const cpu::AttentionTile& tile = tiles[static_cast<std::size_t>(t)];
                cpu::attend_tile(*ops_, tile, segments[static_cast<std::size_t>(tile.segment)],
                                 shape, options, words.data(), pool, layer, attended.data(),
                                 scratch[static_cast<std::size_t>(thread)].data());
            }
        });
        ops_->load(attended.data(), n, result);
    }

    const cpu::Ops* ops_;
    cpu::ThreadPool threads_;
    cpu::CallLock calls_;
};

// keys, values [tokens, heads, head_dim] into the slots.
void write_pool(cpu::KvPool& pool, std::int64_t layer, const Floats& keys, const Floats& values,
                const Integers& slots) {
    const cpu::KvShape& kv = pool.shape();
    const std::int64_t row = kv.n_heads * kv.head_dim;
    if (keys.size() != slots.size() * row || values.size() != keys.size() || layer < 0 ||
        layer >= kv.n_layers) {
        throw std::invalid_argument("keys and values must be [tokens, heads, head_dim]");
    }
    const PythonTurn turn(pool.calls());
    std::int64_t token = 0;
    for (const std::int64_t slot : view(slots)) {
        if (slot < 0 || slot >= kv.n_slots) throw std::invalid_argument("a slot is outside");
        for (std::int64_t head = 0; head < kv.n_heads; ++head) {
            const std::int64_t at = token * row + head * kv.head_dim;
            pool.write(layer, head, slot, keys.data() + at, values.data() + at);
        }
        ++token;
    }
}

std::unique_ptr<cpu::Decoder> make_decoder(const std::string& dtype, std::int64_t hidden,
                                           std::int64_t intermediate, std::int64_t n_heads,
                                           std::int64_t n_kv_heads, std::int64_t head_dim,
                                           std::int64_t n_layers, float norm_eps,
                                           const std::string& activation, std::int32_t n_threads,
                                           bool int8) {
    const cpu::Int8Ops* int8_ops = int8 ? cpu::pick_int8_ops() : nullptr;
    if (int8 && int8_ops == nullptr) {
        throw std::invalid_argument("this processor has no 8-bit dot products (AVX-512 VNNI)");
    }
    const cpu::DecoderShape shape{.hidden = hidden,
                                  .intermediate = intermediate,
                                  .n_heads = n_heads,
                                  .n_kv_heads = n_kv_heads,
                                  .head_dim = head_dim,
                                  .n_layers = n_layers,
                                  .norm_eps = norm_eps,
                                  .activation = parse_activation(activation)};
    return std::make_unique<cpu::Decoder>(require_ops(dtype), int8_ops, shape, n_threads);
}

void bind_pool(py::module_& module) {
    py::class_<cpu::KvPool>(module, "KvPool", "Keys and values of all live segments.")
        .def("write", &write_pool, py::arg("layer"), py::arg("keys"), py::arg("values"),
             py::arg("slots"))
        .def_property_readonly("n_slots", [](const cpu::KvPool& p) { return p.shape().n_slots; })
        .def_property_readonly("n_bytes", &cpu::KvPool::n_bytes);
}

void bind_decoder(py::module_& module) {
    const py::class_<RotaryTables> rotary(module, "RotaryTables",
                                          "Cosines and sines of rotary positions.");
    py::class_<cpu::Decoder>(module, "CpuDecoder",
                             "A decoder over packed segments and shared key-value ranges.")
        .def(py::init(&make_decoder), py::kw_only(), py::arg("dtype"), py::arg("hidden"),
             py::arg("intermediate"), py::arg("n_heads"), py::arg("n_kv_heads"),
             py::arg("head_dim"), py::arg("n_layers"), py::arg("norm_eps"), py::arg("activation"),
             py::arg("n_threads"), py::arg("int8") = false)
        .def("add_layer", &add_layer, py::arg("arrays"), py::kw_only(), py::arg("rotary"),
             py::arg("window"), py::arg("scaling"), py::arg("softcap"))
        .def("make_rotary", &make_rotary, py::arg("tables"))
        .def(
            "make_pool",
            [](const cpu::Decoder& d, std::int64_t n_slots) {
                return std::make_unique<cpu::KvPool>(d.ops(), d.kv_shape(n_slots));
            },
            py::arg("n_slots"))
        .def("forward", &forward, py::arg("pool"), py::arg("rotary"), py::arg("embeddings"),
             py::kw_only(), py::arg("n_tokens"), py::arg("own"), py::arg("range_offsets"),
             py::arg("range_begin"), py::arg("range_end"), py::arg("wanted"))
        .def_property_readonly("isa", [](const cpu::Decoder& d) { return d.ops().name; })
        .def_property_readonly("n_threads", &cpu::Decoder::n_threads)
        .def_property_readonly("n_weight_bytes", [](const cpu::Decoder& d) {
            const py::gil_scoped_release release;
            return d.n_weight_bytes();
        });
}

void bind_attention(py::module_& module) {
    py::class_<TreeAttention>(module, "TreeAttention", "Tree attention on the CPU.")
        .def(py::init<const std::string&, std::int32_t>(), py::arg("dtype"), py::arg("n_threads"))
        .def("make_pool", &TreeAttention::make_pool, py::arg("n_layers"), py::arg("n_heads"),
             py::arg("head_dim"), py::arg("n_slots"))
        .def("attend", &TreeAttention::attend, py::arg("pool"), py::arg("layer"), py::arg("query"),
             py::kw_only(), py::arg("n_tokens"), py::arg("own"), py::arg("range_offsets"),
             py::arg("range_begin"), py::arg("range_end"), py::arg("scaling"), py::arg("window"),
             py::arg("softcap"), py::arg("sinks"))
        .def_property_readonly("isa", &TreeAttention::isa);
}

}  // namespace

void bind_cpu(py::module_& module) {
    bind_pool(module);
    bind_decoder(module);
    bind_attention(module);
    module.def(
        "cpu_isa",
        [](const std::string& dtype) -> std::optional<std::string> {
            const cpu::Ops* ops = find_ops(dtype);
            return ops == nullptr ? std::nullopt : std::optional<std::string>(ops->name);
        },
        py::arg("dtype"), "Instruction set used for a dtype; None where there is none.");
    module.def(
        "cpu_int8_isa",
        []() -> std::optional<std::string> {
            const cpu::Int8Ops* ops = cpu::pick_int8_ops();
            return ops == nullptr ? std::nullopt : std::optional<std::string>(ops->name);
        },
        "Instruction set used for products of 8-bit integers; None where there is none.");
}

}  // namespace icm_fast
