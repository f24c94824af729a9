// The decoder's arithmetic as plain loops in double precision, one whole context at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu/decoder.hpp"
#include "tests/tiny_decoder.hpp"

namespace icm_fast::tests {

using Doubles = std::vector<double>;

class PlainDecoder {
  public:
    PlainDecoder(const cpu::DecoderShape& shape, Parts parts);

    // The last hidden state [hidden] of a context with `embeddings` [n_tokens][hidden].
    [[nodiscard]] Doubles last_state(std::span<const float> embeddings) const;

  private:
    struct Heads {
        std::vector<Doubles> queries, keys, values;  // per token
    };

    [[nodiscard]] Heads project(const TinyLayer& layer, const std::vector<Doubles>& states) const;
    [[nodiscard]] Doubles attend(const TinyLayer& layer, const Heads& heads,
                                 std::size_t token) const;
    [[nodiscard]] Doubles feed_forward(const TinyLayer& layer, const Doubles& state) const;
    // Norms and turns the heads of one token.
    void place(Doubles& heads, const Floats& weight, const TinyLayer& layer,
               std::size_t position) const;

    cpu::DecoderShape shape_;
    std::vector<TinyLayer> layers_;
    std::vector<cpu::RotaryTable> rotary_;
};

}  // namespace icm_fast::tests
