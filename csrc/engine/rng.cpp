#include "engine/rng.hpp"

namespace icm_fast::engine {
namespace {

constexpr std::uint32_t kMultiplier0 = 0xD2511F53U;
constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57U;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9U;
constexpr std::uint32_t kWeyl1 = 0xBB67AE85U;
constexpr int kRounds = 10;

__extension__ using Wide = unsigned __int128;

PhiloxCounter philox_round(const PhiloxCounter& c, const PhiloxKey& key) {
    const std::uint64_t product0 = std::uint64_t{kMultiplier0} * c[0];
    const std::uint64_t product1 = std::uint64_t{kMultiplier1} * c[2];
    const auto high = [](std::uint64_t product) {
        return static_cast<std::uint32_t>(product >> 32U);
    };
    return {high(product1) ^ c[1] ^ key[0], static_cast<std::uint32_t>(product1),
            high(product0) ^ c[3] ^ key[1], static_cast<std::uint32_t>(product0)};
}

}  // namespace

PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) {
    for (int round = 0; round < kRounds; ++round) {
        counter = philox_round(counter, key);
        key[0] += kWeyl0;
        key[1] += kWeyl1;
    }
    return counter;
}

PhiloxCounter CounterRng::draw(Purpose purpose, std::uint64_t iteration,
                               std::uint32_t index) const {
    return philox4x32(
        {index, static_cast<std::uint32_t>(purpose), static_cast<std::uint32_t>(iteration),
         static_cast<std::uint32_t>(iteration >> 32U)},
        {static_cast<std::uint32_t>(seed_), static_cast<std::uint32_t>(seed_ >> 32U)});
}

double CounterRng::uniform(Purpose purpose, std::uint64_t iteration, std::uint32_t index) const {
    const PhiloxCounter words = draw(purpose, iteration, index);
    const double high = words[0] >> 5U;  // 27 bits
    const double low = words[1] >> 6U;   // 26 bits
    return (high * 0x1p26 + low) * 0x1p-53;
}

std::uint64_t CounterRng::bounded(Purpose purpose, std::uint64_t iteration, std::uint32_t index,
                                  std::uint64_t n) const {
    const PhiloxCounter words = draw(purpose, iteration, index);
    const std::uint64_t word = (std::uint64_t{words[1]} << 32U) | words[0];
    return static_cast<std::uint64_t>((Wide{word} * n) >> 64U);
}

}  // namespace icm_fast::engine
