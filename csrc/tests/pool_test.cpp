// The key-value pool and its memory.
#include <cstdint>
#include <limits>
#include <new>
#include <string>

#include "cpu/aligned_buffer.hpp"
#include "cpu/kv_pool.hpp"
#include "tests/check.hpp"
#include "tests/inputs.hpp"

namespace icm_fast::tests {
namespace {

constexpr std::int64_t kDim = 6;

Floats stored_key(const cpu::Ops& ops, const cpu::Word* keys, std::int64_t slot) {
    const cpu::Word* from = keys + slot * kDim / ops.values_per_word;
    return loaded(ops, {from, from + kDim / ops.values_per_word});
}

// Two neighbouring slots share the words of their values where a word holds two.
Floats stored_value(const cpu::Ops& ops, const cpu::Word* values, std::int64_t slot) {
    const cpu::Word* from = values + slot / ops.values_per_word * kDim;
    const Floats all = loaded(ops, {from, from + kDim});
    Floats value;
    for (std::int64_t d = 0; d < kDim; ++d) {
        value.push_back(all[to_size(d * ops.values_per_word + slot % ops.values_per_word)]);
    }
    return value;
}

// A number of its own for every row; exact in both formats.
Floats mark(std::int64_t layer, std::int64_t head, std::int64_t slot, float sign) {
    const auto base = static_cast<float>((layer * 3 + head) * 7 + slot + 1);
    Floats row;
    for (std::int64_t d = 0; d < kDim; ++d)
        row.push_back(sign * (base + 64.0F * static_cast<float>(d % 2)));
    return row;
}

// Memory that nobody looks at need not be allocated, says the compiler.
void use(const void* memory) { asm volatile("" : : "r"(memory) : "memory"); }

}  // namespace

NATIVE_TEST(pool, rows_land_in_their_slots_and_nowhere_else) {
    for_each_table([](const cpu::Ops& ops) {
        for (const std::int64_t n_slots : {1, 6, 7}) {
            const Input input("slots " + std::to_string(n_slots));
            cpu::KvPool pool(ops, {2, 3, kDim, n_slots});
            for (std::int64_t at = 0; at < 6 * n_slots; ++at) {
                const std::int64_t slot = n_slots - 1 - at % n_slots;
                const std::int64_t head = at / n_slots % 3;
                const std::int64_t layer = at / n_slots / 3;
                pool.write(layer, head, slot, mark(layer, head, slot, 1.0F).data(),
                           mark(layer, head, slot, -1.0F).data());
            }
            for (std::int64_t at = 0; at < 6 * n_slots; ++at) {
                const std::int64_t slot = at % n_slots;
                const std::int64_t head = at / n_slots % 3;
                const std::int64_t layer = at / n_slots / 3;
                CHECK(stored_key(ops, pool.keys(layer, head), slot) ==
                      mark(layer, head, slot, 1.0F));
                CHECK(stored_value(ops, pool.values(layer, head), slot) ==
                      mark(layer, head, slot, -1.0F));
            }
        }
    });
}

NATIVE_TEST(pool, a_row_may_be_written_again) {
    for_each_table([](const cpu::Ops& ops) {
        cpu::KvPool pool(ops, {1, 1, kDim, 3});
        pool.write(0, 0, 1, mark(0, 0, 1, 1.0F).data(), mark(0, 0, 1, 1.0F).data());
        pool.write(0, 0, 1, mark(0, 0, 2, 1.0F).data(), mark(0, 0, 2, 1.0F).data());
        CHECK(stored_value(ops, pool.values(0, 0), 1) == mark(0, 0, 2, 1.0F));
        CHECK(stored_value(ops, pool.values(0, 0), 0) == Floats(to_size(kDim), 0.0F));
    });
}

NATIVE_TEST(pool, bytes_are_those_of_whole_words) {
    for_each_table([](const cpu::Ops& ops) {
        const cpu::KvPool pool(ops, {2, 3, kDim, 7});
        const std::int64_t slots = is_float32(ops) ? 7 : 8;
        CHECK_EQUAL(pool.n_bytes(), 2 * 2 * 3 * slots * kDim * 4 / ops.values_per_word);
        CHECK_EQUAL(pool.shape().n_slots, 7);
    });
}

NATIVE_TEST(pool, memory_is_zero_and_aligned) {
    cpu::AlignedBuffer<float> buffer(3);
    CHECK_EQUAL(buffer.size(), 3);
    CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0U);
    buffer.data()[0] = 1.0F;
    buffer.reserve(2);
    CHECK_EQUAL(buffer.data()[0], 1.0F);
    buffer.reserve(4);
    for (int k = 0; k < 4; ++k) CHECK_EQUAL(buffer.data()[k], 0.0F);
}

NATIVE_TEST(pool, memory_that_is_not_there_leaves_nothing_behind) {
    cpu::AlignedBuffer<float> buffer(3);
    bool thrown = false;
    try {
        buffer.reserve(std::int64_t{1} << 58);
        use(buffer.data());
    } catch (const std::bad_alloc&) {
        thrown = true;
    }
    CHECK(thrown);
    CHECK_EQUAL(buffer.size(), 0);
    for (const std::int64_t size : {std::int64_t{-1}, std::int64_t{1} << 62}) {
        check_refused("memory in bytes is " + std::to_string(size) + " x 4, more than",
                      [&] { buffer.resize(size); });
    }
    buffer.reserve(2);
    CHECK_EQUAL(buffer.size(), 2);
    buffer.data()[1] = 1.0F;
}

// The product of the sizes is 0 in 64 bits.
NATIVE_TEST(pool, sizes_whose_product_overflows_are_refused) {
    for_each_table([](const cpu::Ops& ops) {
        check_refused("1099511627776 x 2 x 4 x 2097152, more than",
                      [&] { const cpu::KvPool pool(ops, {std::int64_t{1} << 40, 2, 4, 1 << 21}); });
        check_refused("positive sizes", [&] { const cpu::KvPool pool(ops, {-1, -1, 4, 1}); });
    });
}

NATIVE_TEST(pool, missing_memory_is_told_with_its_numbers) {
    for_each_table([](const cpu::Ops& ops) {
        std::string message;
        try {
            const cpu::KvPool pool(ops, {4, 2, 4, std::int64_t{1} << 45});
            use(&pool);
        } catch (const std::bad_alloc& error) {
            message = error.what();
        }
        CHECK(message.find("4 layers, 2 heads of 4, 35184372088832 slots") != std::string::npos);
    });
}

}  // namespace icm_fast::tests
