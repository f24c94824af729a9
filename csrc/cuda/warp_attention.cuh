// What a warp computes: 16 query rows against one block of keys. Include after tile_memory.cuh.
//
// A 16 x 8 product lies in a warp so that lane l holds the rows l / 4 and l / 4 + 8 in two
// neighbouring columns, 2 (l % 4) and the next. Element i of a lane is in row i / 2, column i % 2.
#pragma once

#include <cstdint>

#include "cuda/tile_memory.cuh"

namespace icm_fast::cuda {

inline constexpr float kLog2E = 1.4426950408889634F;
// Logit of a key that is not seen: none that is comes near it, and unlike negative infinity it can
// be taken from itself.
inline constexpr float kHidden = -1e30F;

// Query rows as the left operand: in registers, or read from shared memory each time.
template <typename Shape>
class QueryRows {
  public:
    __device__ explicit QueryRows(const std::uint16_t* tile) : tile_(tile) {
        if constexpr (Shape::kQueryInRegisters) {
            ICM_FAST_UNROLL
            for (int step = 0; step < kSteps; ++step) read(step, registers_[step]);
        }
    }

    __device__ void get(int step, std::uint32_t (&a)[4]) const {
        if constexpr (Shape::kQueryInRegisters) {
            ICM_FAST_UNROLL
            for (int i = 0; i < 4; ++i) a[i] = registers_[step][i];
        } else {
            read(step, a);
        }
    }

    // The registers themselves: for products that go on while the lane does.
    __device__ const std::uint32_t (&registers(int step) const)[4] {
        static_assert(Shape::kQueryInRegisters);
        return registers_[step];
    }

  private:
    static constexpr int kSteps = Shape::kHeadDim / 16;

    // Matrices: upper rows, lower rows, and the same of the next 8 columns.
    __device__ void read(int step, std::uint32_t (&a)[4]) const {
        const LaneChunks<Shape::kHeadDim> chunks(warp() * 16 + lane() % 16, lane() / 16);
        ldmatrix(a, tile_ + chunks.at(0, step * 2));
    }

    const std::uint16_t* tile_;
    std::uint32_t registers_[Shape::kQueryInRegisters ? kSteps : 1][4];
};

// Scores become logits in powers of two: scaling, and with it log2(e), or the soft-cap.
struct LogitScale {
    float scale;
    float cap;  // softcap * log2(e)

    template <bool kSoftcap>
    __device__ float logit(float score) const {
        if constexpr (!kSoftcap) return score * scale;
        // tanh(x) = 1 - 2 / (1 + exp(2x)); `scale` holds the 2 log2(e) of the exponent.
        return cap - 2.0F * quotient(cap, 1.0F + power_of_two(score * scale));
    }
};

template <bool kSoftcap>
__device__ __forceinline__ LogitScale logit_scale(float scaling, float softcap) {
    if constexpr (!kSoftcap) return {scaling * kLog2E, 0.0F};
    return {2.0F * kLog2E * scaling / softcap, softcap * kLog2E};
}

// Keys that the two query rows of a lane see: from `first` up to `end`, as positions.
struct SeenKeys {
    int first[2];
    int end[2];
};

template <typename Shape>
using Scores = float[Shape::kKeys / 8][4];

// scores = query keys^T
template <typename Element, typename Shape>
__device__ __forceinline__ void multiply_keys(const QueryRows<Shape>& query,
                                              const std::uint16_t* keys, Scores<Shape>& scores) {
    ICM_FAST_UNROLL
    for (int n = 0; n < Shape::kKeys / 8; ++n) {
        ICM_FAST_UNROLL
        for (int i = 0; i < 4; ++i) scores[n][i] = 0.0F;
    }
    // Matrices: 8 keys in 8 columns, the next 8 columns, and the same of the next 8 keys.
    const LaneChunks<Shape::kHeadDim> chunks(lane() / 16 * 8 + lane() % 8, lane() / 8 % 2);
    ICM_FAST_UNROLL
    for (int step = 0; step < Shape::kHeadDim / 16; ++step) {
        std::uint32_t a[4];
        query.get(step, a);
        ICM_FAST_UNROLL
        for (int n = 0; n < Shape::kKeys / 16; ++n) {
            std::uint32_t b[4];
            ldmatrix(b, keys + chunks.at(n * 16, step * 2));
            mma<Element>(scores[2 * n], a, b[0], b[1]);
            mma<Element>(scores[2 * n + 1], a, b[2], b[3]);
        }
    }
}

template <bool kSoftcap, typename Shape>
__device__ __forceinline__ void to_logits(const LogitScale& scale, Scores<Shape>& scores) {
    ICM_FAST_UNROLL
    for (int n = 0; n < Shape::kKeys / 8; ++n) {
        ICM_FAST_UNROLL
        for (int i = 0; i < 4; ++i) scores[n][i] = scale.template logit<kSoftcap>(scores[n][i]);
    }
}

// `position`: of the block's first key.
template <typename Shape>
__device__ __forceinline__ void hide(const SeenKeys& seen, int position, Scores<Shape>& scores) {
    ICM_FAST_UNROLL
    for (int n = 0; n < Shape::kKeys / 8; ++n) {
        ICM_FAST_UNROLL
        for (int i = 0; i < 4; ++i) {
            const int key = position + n * 8 + lane() % 4 * 2 + i % 2;
            if (key < seen.first[i / 2] || key >= seen.end[i / 2]) scores[n][i] = kHidden;
        }
    }
}

// Over the four lanes that share a row.
__device__ __forceinline__ float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFU, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xFFFFFFFFU, value, 2));
}

__device__ __forceinline__ float row_sum(float value) {
    value += __shfl_xor_sync(0xFFFFFFFFU, value, 1);
    return value + __shfl_xor_sync(0xFFFFFFFFU, value, 2);
}

// The softmax of two rows so far: largest logit, sum of weights relative to it (of this lane's
// columns), and the values' sum.
template <typename Shape>
struct SoftmaxRows {
    float max[2];
    float sum[2];
    float out[Shape::kHeadDim / 8][4];

    __device__ SoftmaxRows() : max{kHidden, kHidden}, sum{0.0F, 0.0F} {
        ICM_FAST_UNROLL
        for (int n = 0; n < Shape::kHeadDim / 8; ++n) {
            ICM_FAST_UNROLL
            for (int i = 0; i < 4; ++i) out[n][i] = 0.0F;
        }
    }

    // Raises the largest logit; the sum of weights shrinks accordingly, and the values' sum has to,
    // by what is returned.
    __device__ float raise(int row, float largest) {
        const float raised = fmaxf(max[row], largest);
        const float factor = power_of_two(max[row] - raised);
        max[row] = raised;
        sum[row] *= factor;
        return factor;
    }

    __device__ void scale_values(int row, float factor) {
        ICM_FAST_UNROLL
        for (int n = 0; n < Shape::kHeadDim / 8; ++n) {
            out[n][2 * row] *= factor;
            out[n][2 * row + 1] *= factor;
        }
    }

    __device__ void weigh(Scores<Shape>& scores) {
        weigh(scores, [this](int row, float factor) { scale_values(row, factor); });
    }

    // Logits become weights; `scale` takes a row and the factor for its values' sum. To a row that
    // has seen no key yet, hidden ones are as large as the largest; what it counts of them is gone,
    // times zero, with the first key that it sees.
    template <typename Scale>
    __device__ void weigh(Scores<Shape>& scores, const Scale& scale) {
        ICM_FAST_UNROLL
        for (int row = 0; row < 2; ++row) {
            float largest = kHidden;
            ICM_FAST_UNROLL
            for (int n = 0; n < Shape::kKeys / 8; ++n) {
                largest = fmaxf(largest, fmaxf(scores[n][2 * row], scores[n][2 * row + 1]));
            }
            scale(row, raise(row, row_max(largest)));
            ICM_FAST_UNROLL
            for (int n = 0; n < Shape::kKeys / 8; ++n) {
                ICM_FAST_UNROLL
                for (int i = 2 * row; i < 2 * row + 2; ++i) {
                    scores[n][i] = power_of_two(scores[n][i] - max[row]);
                    sum[row] += scores[n][i];
                }
            }
        }
    }

    // out += weights values. The products of two 8-key blocks are the left operand of 16 keys.
    template <typename Element>
    __device__ void add_values(const Scores<Shape>& weights, const std::uint16_t* values) {
        // Matrices: 8 keys in 8 columns, the next 8 keys, and the same of the next 8 columns.
        const LaneChunks<Shape::kHeadDim> chunks(lane() % 16, lane() / 16);
        ICM_FAST_UNROLL
        for (int step = 0; step < Shape::kKeys / 16; ++step) {
            const std::uint32_t a[4] = {
                pack<Element>(weights[2 * step][0], weights[2 * step][1]),
                pack<Element>(weights[2 * step][2], weights[2 * step][3]),
                pack<Element>(weights[2 * step + 1][0], weights[2 * step + 1][1]),
                pack<Element>(weights[2 * step + 1][2], weights[2 * step + 1][3]),
            };
            ICM_FAST_UNROLL
            for (int n = 0; n < Shape::kHeadDim / 16; ++n) {
                std::uint32_t b[4];
                ldmatrix_transposed(b, values + chunks.at(step * 16, n * 2));
                mma<Element>(out[2 * n], a, b[0], b[1]);
                mma<Element>(out[2 * n + 1], a, b[2], b[3]);
            }
        }
    }

    // A logit without a value.
    __device__ void add_sink(int row, float logit) {
        scale_values(row, raise(row, logit));
        // One of the four lanes: their sums are added up.
        if (lane() % 4 == 0) sum[row] += power_of_two(logit - max[row]);
    }

    // Divides by the sum and returns its logarithm: kHidden for a row that sees nothing, so that it
    // has no weight where parts are merged.
    __device__ float normalise(int row) {
        const float total = row_sum(sum[row]);
        scale_values(row, total > 0.0F ? 1.0F / total : 0.0F);
        return total > 0.0F ? max[row] + binary_logarithm(total) : kHidden;
    }
};

}  // namespace icm_fast::cuda
