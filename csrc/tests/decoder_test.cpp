// The decoder on a tiny tree: the same numbers whatever the threads and batches; bad input is
// refused.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/check.hpp"
#include "tests/inputs.hpp"
#include "tests/plain_decoder.hpp"
#include "tests/tiny_decoder.hpp"

namespace icm_fast::tests {
namespace {

using Batches = std::vector<std::vector<std::int64_t>>;

const Batches kTogether = {{0, 1, 2, 3, 4, 5, 6, 7, 8}};
const Batches kByLevel = {{6, 0}, {2, 1, 7}, {5, 4, 3}, {8}};
const Batches kAlone = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}};

template <typename Work>
void for_each_decoder(const Work& work) {
    for_each_table([&](const cpu::Ops& ops) {
        const Input awkward("awkward");
        work(ops, kAwkward, Parts::kFewest);
        const Input wide("wide");
        work(ops, kWide, Parts::kAll);
    });
}

// Largest difference as a share of the largest value.
template <typename Values>
double difference(const Floats& got, const Values& wanted) {
    CHECK_EQUAL(got.size(), wanted.size());
    double most = 0.0;
    double scale = 0.0;
    for (std::size_t k = 0; k < got.size(); ++k) {
        CHECK(std::isfinite(got[k]) && std::isfinite(wanted[k]));
        most = std::max(most, std::abs(double{got[k]} - wanted[k]));
        scale = std::max(scale, std::abs(double{wanted[k]}));
    }
    return most / scale;
}

// A decoder with one valid call, parts of which tests spoil.
struct Call {
    Call()
        : decoder(make_decoder(*cpu::pick_ops(cpu::Format::kFloat32), kAwkward, Parts::kFewest, 2)),
          pool(decoder->ops(), decoder->kv_shape(tree.n_slots())),
          batch(tree.batch({0, 1, 2})),
          embeddings(TinyTree::embeddings(batch, kAwkward.hidden)),
          out(to_size(3 * kAwkward.hidden), kNan) {}

    void run() { decoder->forward(batch, embeddings, rotary, pool, out); }

    TinyTree tree;
    std::unique_ptr<cpu::Decoder> decoder;
    cpu::KvPool pool;
    cpu::Batch batch;
    Floats embeddings;
    Floats out;
    std::vector<cpu::RotaryTable> rotary = make_rotary(kAwkward, TinyTree::kPositions);
};

// The call spoilt in one way is refused, and afterwards the valid one still runs.
void check_spoilt(const std::string& message, const std::function<void(Call&)>& spoil) {
    Call call;
    call.run();
    const Floats wanted = call.out;
    const cpu::Batch batch = call.batch;
    const Floats embeddings = call.embeddings;
    spoil(call);
    check_refused(message, [&] { call.run(); });
    call.batch = batch;
    call.embeddings = embeddings;
    call.out.assign(wanted.size(), kNan);
    call.run();
    CHECK(call.out == wanted);
}

cpu::KeyRange& own(Call& call, std::size_t segment) {
    return call.batch.segments[segment].ranges.back();
}

}  // namespace

NATIVE_TEST(decoder, threads_change_no_bit) {
    const TinyTree tree;
    for_each_decoder([&](const cpu::Ops& ops, const cpu::DecoderShape& shape, Parts parts) {
        const Floats wanted = run_tree(*make_decoder(ops, shape, parts, 1), tree, kByLevel);
        for (const std::int32_t n_threads : {2, 3}) {
            const Input input("threads " + std::to_string(n_threads));
            CHECK(run_tree(*make_decoder(ops, shape, parts, n_threads), tree, kByLevel) == wanted);
        }
    });
}

NATIVE_TEST(decoder, batches_change_no_bit) {
    const TinyTree tree;
    for_each_decoder([&](const cpu::Ops& ops, const cpu::DecoderShape& shape, Parts parts) {
        const auto decoder = make_decoder(ops, shape, parts, 2);
        const Floats wanted = run_tree(*decoder, tree, kTogether);
        for (const float value : wanted) CHECK(std::isfinite(value));
        CHECK(run_tree(*decoder, tree, kByLevel) == wanted);
        CHECK(run_tree(*decoder, tree, kAlone) == wanted);
        CHECK(run_tree(*decoder, tree, kTogether) == wanted);
    });
}

NATIVE_TEST(decoder, equals_plain_loops) {
    const TinyTree tree;
    for_each_decoder([&](const cpu::Ops& ops, const cpu::DecoderShape& shape, Parts parts) {
        const Floats got = run_tree(*make_decoder(ops, shape, parts, 2), tree, kByLevel);
        for (const std::int64_t segment : {2, 5, 7, 8}) {
            const Input input("segment " + std::to_string(segment));
            const float* state = got.data() + segment * shape.hidden;
            const Doubles wanted =
                PlainDecoder(shape, parts).last_state(tree.context(segment, shape.hidden));
            CHECK_NEAR(difference({state, state + shape.hidden}, wanted), 0.0,
                       is_float32(ops) ? 5e-6 : 3e-2);
        }
    });
}

// Else the tests above would compare very little.
NATIVE_TEST(decoder, every_part_of_a_layer_counts) {
    const TinyTree tree;
    const cpu::Ops& ops = *cpu::pick_ops(cpu::Format::kFloat32);
    const auto run = [&](const std::function<void(TinyLayer&)>& change) {
        cpu::Decoder decoder(ops, nullptr, kAwkward, 1);
        for (std::int64_t k = 0; k < kAwkward.n_layers; ++k) {
            TinyLayer layer = make_layer(kAwkward, Parts::kAll, k);
            if (k == 0) change(layer);
            decoder.add_layer(layer.source());
        }
        return run_tree(decoder, tree, kByLevel);
    };
    const Floats whole = run([](TinyLayer&) {});
    const std::vector<std::function<void(TinyLayer&)>> changes = {
        [](TinyLayer& l) { l.query_bias.assign(l.query_bias.size(), 0.0F); },
        [](TinyLayer& l) { l.key_bias.assign(l.key_bias.size(), 0.0F); },
        [](TinyLayer& l) { l.value_bias.assign(l.value_bias.size(), 0.0F); },
        [](TinyLayer& l) { l.post_attention_norm.clear(); },
        [](TinyLayer& l) { l.post_feed_forward_norm.clear(); },
        [](TinyLayer& l) { l.query_norm.clear(); },
        [](TinyLayer& l) { l.key_norm.clear(); },
        [](TinyLayer& l) { l.rotary = 1; },
        [](TinyLayer& l) { l.window = 0; },
        [](TinyLayer& l) { l.softcap = 0.0F; },
    };
    for (std::size_t k = 0; k < changes.size(); ++k) {
        const Input input("change " + std::to_string(k));
        CHECK(difference(run(changes[k]), whole) > 1e-4);
    }
}

NATIVE_TEST(decoder, only_wanted_segments_are_returned) {
    Call call;
    call.run();
    const Floats all = call.out;
    const std::int64_t hidden = kAwkward.hidden;
    call.batch.wanted = {0, 1, 0};
    call.out.assign(to_size(hidden), kNan);
    call.run();
    CHECK(std::equal(call.out.begin(), call.out.end(), all.begin() + hidden));
    call.batch.wanted = {0, 0, 0};
    call.out.clear();
    call.run();
}

NATIVE_TEST(decoder, all_states_of_a_segment_are_those_of_its_beginnings) {
    const TinyTree tree;
    for_each_decoder([&](const cpu::Ops& ops, const cpu::DecoderShape& shape, Parts parts) {
        const auto decoder = make_decoder(ops, shape, parts, 2);
        cpu::KvPool pool(decoder->ops(), decoder->kv_shape(tree.n_slots()));
        const auto rotary = make_rotary(shape, TinyTree::kPositions);
        cpu::Batch batch = tree.batch(kTogether.front());
        for (std::size_t s = 0; s < batch.wanted.size(); ++s) {
            batch.wanted[s] = s % 3 == 0 ? cpu::kLast : cpu::kAll;
        }
        Floats out(to_size(cpu::n_wanted_rows(batch) * shape.hidden), kNan);
        decoder->forward(batch, TinyTree::embeddings(batch, shape.hidden), rotary, pool, out);
        const PlainDecoder plain(shape, parts);
        const float* at = out.data();
        for (std::size_t s = 0; s < batch.wanted.size(); ++s) {
            const Input input("segment " + std::to_string(s));
            const cpu::Segment& segment = batch.segments[s];
            const Floats context = tree.context(static_cast<std::int64_t>(s), shape.hidden);
            const std::int64_t n = batch.wanted[s] == cpu::kAll ? segment.end - segment.begin : 1;
            for (std::int64_t missing = n - 1; missing >= 0; --missing) {
                const auto size = context.size() - to_size(missing * shape.hidden);
                const Doubles wanted = plain.last_state({context.data(), size});
                CHECK_NEAR(difference({at, at + shape.hidden}, wanted), 0.0,
                           is_float32(ops) ? 5e-6 : 3e-2);
                at += shape.hidden;
            }
        }
        CHECK(at == out.data() + out.size());
    });
}

NATIVE_TEST(decoder, an_empty_batch_is_nothing_to_do) {
    Call call;
    call.batch = {};
    call.embeddings.clear();
    call.out.clear();
    call.run();
}

NATIVE_TEST(decoder, weights_are_counted) {
    for_each_table([](const cpu::Ops& ops) {
        // Outputs padded to panels of 32: projections 128 x 36, output 64 x 72, gate and up
        // 4 panels x 36, down 64 x 64.
        const std::int64_t values = 128 * 36 + 64 * 72 + 128 * 36 + 64 * 64;
        const auto decoder = make_decoder(ops, kAwkward, Parts::kFewest, 1);
        CHECK_EQUAL(decoder->n_weight_bytes(), 2 * values * 4 / ops.values_per_word);
    });
}

NATIVE_TEST(decoder, batches_that_do_not_fit_are_refused) {
    check_spoilt("wanted needs one entry", [](Call& c) { c.batch.wanted.pop_back(); });
    check_spoilt("wanted must be", [](Call& c) { c.batch.wanted[1] = 3; });
    check_spoilt("embeddings must be", [](Call& c) { c.embeddings.pop_back(); });
    check_spoilt("out must be", [](Call& c) { c.out.pop_back(); });
    check_spoilt("touch", [](Call& c) { c.batch.segments[1].begin += 1; });
    check_spoilt("not be empty", [](Call& c) { c.batch.segments[0].end = 0; });
    check_spoilt("needs its own range", [](Call& c) { c.batch.segments[1].ranges.clear(); });
    check_spoilt("outside the pool", [](Call& c) { own(c, 0).slot = -1; });
    check_spoilt("outside the pool", [](Call& c) { own(c, 0).count = 0; });
    check_spoilt("outside the pool", [](Call& c) { own(c, 0).slot = c.tree.n_slots() - 19; });
    check_spoilt("outside the pool",
                 [](Call& c) { own(c, 0).count = std::numeric_limits<std::int64_t>::max(); });
    check_spoilt("must follow each other", [](Call& c) { own(c, 1).position += 1; });
    check_spoilt("the segment's own", [](Call& c) { c.batch.segments[1].start -= 1; });
    check_spoilt("the segment's own", [](Call& c) { own(c, 1).count -= 1; });
    check_spoilt("cover all rows", [](Call& c) {
        c.batch.n_tokens += 1;
        c.embeddings.resize(c.embeddings.size() + to_size(kAwkward.hidden));
    });
}

NATIVE_TEST(decoder, positions_outside_the_rotary_tables_are_refused) {
    Call call;
    call.rotary = make_rotary(kAwkward, 26);
    check_refused("outside the rotary tables", [&] { call.run(); });
    call.rotary = make_rotary(kAwkward, 27);
    call.run();
    call.rotary[0].half = kAwkward.head_dim;
    check_refused("rotary tables must be", [&] { call.run(); });
    call.rotary.clear();
    check_refused("rotary table that is not there", [&] { call.run(); });
}

NATIVE_TEST(decoder, pools_of_another_model_are_refused) {
    Call call;
    const cpu::KvShape shape = call.pool.shape();
    for (const auto size :
         {&cpu::KvShape::n_layers, &cpu::KvShape::n_heads, &cpu::KvShape::head_dim}) {
        cpu::KvShape other = shape;
        other.*size += 2;
        cpu::KvPool pool(call.decoder->ops(), other);
        check_refused("for another model", [&] {
            call.decoder->forward(call.batch, call.embeddings, call.rotary, pool, call.out);
        });
    }
    if (const cpu::Ops* ops = cpu::pick_ops(cpu::Format::kBfloat16)) {
        cpu::KvPool pool(*ops, shape);
        check_refused("for another model", [&] {
            call.decoder->forward(call.batch, call.embeddings, call.rotary, pool, call.out);
        });
    }
    call.run();
}

NATIVE_TEST(decoder, layers_must_be_there) {
    Call call;
    cpu::Decoder decoder(call.decoder->ops(), nullptr, kAwkward, 1);
    decoder.add_layer(make_layer(kAwkward, Parts::kFewest, 0).source());
    const auto run = [&] {
        decoder.forward(call.batch, call.embeddings, call.rotary, call.pool, call.out);
    };
    check_refused("1 of 2 layers", run);
    TinyLayer lost = make_layer(kAwkward, Parts::kFewest, 1);
    lost.rotary = 2;
    decoder.add_layer(lost.source());
    check_refused("rotary table that is not there", run);
    check_refused("more layers", [&] { decoder.add_layer(lost.source()); });
}

NATIVE_TEST(decoder, weights_of_another_size_are_refused) {
    const TinyLayer layer = make_layer(kAwkward, Parts::kAll, 0);
    cpu::Decoder decoder(*cpu::pick_ops(cpu::Format::kFloat32), nullptr, kAwkward, 1);
    using Field = Floats TinyLayer::*;
    const std::vector<Field> fields = {&TinyLayer::query,      &TinyLayer::key,
                                       &TinyLayer::value,      &TinyLayer::output,
                                       &TinyLayer::gate,       &TinyLayer::up,
                                       &TinyLayer::down,       &TinyLayer::query_bias,
                                       &TinyLayer::key_bias,   &TinyLayer::value_bias,
                                       &TinyLayer::input_norm, &TinyLayer::post_attention_norm,
                                       &TinyLayer::query_norm, &TinyLayer::feed_forward_norm,
                                       &TinyLayer::key_norm,   &TinyLayer::post_feed_forward_norm};
    for (const Field field : fields) {
        TinyLayer spoilt = layer;
        (spoilt.*field).pop_back();
        check_refused("expected", [&] { decoder.add_layer(spoilt.source()); });
    }
    for (const Field field : {&TinyLayer::query_bias, &TinyLayer::value_bias}) {
        TinyLayer spoilt = layer;
        (spoilt.*field).clear();
        check_refused("all have a bias or none", [&] { decoder.add_layer(spoilt.source()); });
    }
    decoder.add_layer(layer.source());
}

NATIVE_TEST(decoder, shapes_that_make_no_sense_are_refused) {
    const auto refused = [](const std::string& message, std::int64_t cpu::DecoderShape::* field,
                            std::int64_t value) {
        cpu::DecoderShape shape = kAwkward;
        shape.*field = value;
        check_refused(message, [&] {
            const cpu::Decoder decoder(*cpu::pick_ops(cpu::Format::kFloat32), nullptr, shape, 2);
        });
    };
    for (const std::int64_t value : {0, -2, 35}) {
        refused("hidden must be even", &cpu::DecoderShape::hidden, value);
        refused("head_dim must be even", &cpu::DecoderShape::head_dim, value);
    }
    refused("must be positive", &cpu::DecoderShape::intermediate, 0);
    refused("must be positive", &cpu::DecoderShape::n_layers, 0);
    refused("multiple of n_kv_heads", &cpu::DecoderShape::n_kv_heads, 0);
    refused("multiple of n_kv_heads", &cpu::DecoderShape::n_kv_heads, 4);
    refused("multiple of n_kv_heads", &cpu::DecoderShape::n_heads, 0);
    const std::int64_t huge = std::int64_t{1} << 62;
    refused("hidden is 4611686018427387904, more than", &cpu::DecoderShape::hidden, huge);
    refused("intermediate is", &cpu::DecoderShape::intermediate, huge);
    refused("n_layers is", &cpu::DecoderShape::n_layers, huge);
    refused("n_heads is", &cpu::DecoderShape::n_heads, huge);
    refused("head_dim is", &cpu::DecoderShape::head_dim, huge);
    refused("n_heads x head_dim is 6 x 16777216", &cpu::DecoderShape::head_dim, 1 << 24);
}

// Batches of two callers, each with its own pool and tables, one after the other and at once.
NATIVE_TEST(decoder, callers_take_turns) {
    const TinyTree tree;
    const cpu::Ops& ops = *cpu::pick_ops(cpu::Format::kFloat32);
    const auto decoder = make_decoder(ops, kAwkward, Parts::kAll, 2);
    const Floats wanted = run_tree(*decoder, tree, kByLevel);
    std::vector<Floats> found(3);
    std::vector<std::thread> callers;
    for (Floats& states : found) {
        callers.emplace_back([&] {
            for (int round = 0; round < 5; ++round) states = run_tree(*decoder, tree, kByLevel);
        });
    }
    for (std::thread& caller : callers) caller.join();
    for (const Floats& states : found) CHECK(states == wanted);
}

}  // namespace icm_fast::tests
