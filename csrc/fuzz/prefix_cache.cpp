// Plans that follow each other in one cache: what it says is held has been forwarded, and nothing
// lies on it.
#include "plan/prefix_cache.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "fuzz/bytes.hpp"
#include "fuzz/random_plan.hpp"

namespace icm_fast::fuzz {
namespace {

// What each slot of the pool holds: the text of its token and of all before it, as a number.
class Pool {
  public:
    explicit Pool(std::int64_t n_slots) : texts_(static_cast<std::size_t>(n_slots), 0) {}

    // Forwards the batches in order; all that a segment attends to must be as it was written.
    void run(const plan::LooTree& tree, const plan::Schedule& schedule,
             std::span<const std::int32_t> labels, std::span<const bool> forwarded) {
        for (const std::int32_t segment : schedule.batch_segments) {
            const auto s = static_cast<std::size_t>(segment);
            if (!forwarded[s]) continue;
            for (std::int32_t at = tree.parent[s]; at >= 0;
                 at = tree.parent[static_cast<std::size_t>(at)]) {
                check(tree, schedule, labels, static_cast<std::size_t>(at));
            }
            write(tree, schedule, labels, s);
        }
    }

  private:
    static std::uint64_t text(const plan::LooTree& tree, std::span<const std::int32_t> labels,
                              std::size_t segment) {
        std::uint64_t hash = 1469598103934665603U;
        const auto add = [&](std::int64_t value) {
            hash = (hash ^ static_cast<std::uint64_t>(value + 1000)) * 1099511628211U;
        };
        for (auto at = static_cast<std::int32_t>(segment); at >= 0;
             at = tree.parent[static_cast<std::size_t>(at)]) {
            const auto s = static_cast<std::size_t>(at);
            for (const std::int32_t demo : tree.demos_of(at)) {
                add(demo);
                add(labels[static_cast<std::size_t>(demo)]);
            }
            add(tree.query[s]);
            add(tree.tail[s]);
            add(tree.has_root_token[s]);
        }
        return hash;
    }
    void write(const plan::LooTree& tree, const plan::Schedule& schedule,
               std::span<const std::int32_t> labels, std::size_t s) {
        const std::uint64_t value = text(tree, labels, s);
        for (std::int64_t k = 0; k < tree.n_tokens[s]; ++k) slot(schedule.kv_offset[s] + k) = value;
    }
    void check(const plan::LooTree& tree, const plan::Schedule& schedule,
               std::span<const std::int32_t> labels, std::size_t s) {
        const std::uint64_t value = text(tree, labels, s);
        for (std::int64_t k = 0; k < tree.n_tokens[s]; ++k) {
            expect(slot(schedule.kv_offset[s] + k) == value, "a segment attends to another text");
        }
    }
    std::uint64_t& slot(std::int64_t at) {
        expect(at >= 0 && at < static_cast<std::int64_t>(texts_.size()), "outside the pool");
        return texts_[static_cast<std::size_t>(at)];
    }

    std::vector<std::uint64_t> texts_;
};

// One plan after the other over the same examples; only labels and limits change.
void fuzz_cache(Bytes& bytes) {
    const RandomPlan random(bytes);
    const std::int64_t n_slots = bytes.between(1, 1200);
    plan::LooTree tree;
    if (is_refused([&] { tree = plan::build_loo_tree(random.input()); })) return;
    for (const std::int64_t tokens : tree.n_tokens) {
        if (tokens > 100000) return;
    }
    plan::PrefixCache cache(n_slots);
    Pool pool(n_slots);
    for (int round = 0; round < 8 && !bytes.is_empty(); ++round) {
        std::vector<std::int32_t> labels;
        for (std::size_t i = 0; i < random.n_examples(); ++i) {
            labels.push_back(static_cast<std::int32_t>(bytes.between(0, 1)));
        }
        if (bytes.rarely()) labels.push_back(0);
        const auto rows = std::make_unique<bool[]>(random.n_examples());
        for (std::size_t i = 0; i < random.n_examples(); ++i) rows[i] = bytes.flag();
        const plan::LooTree part = plan::prune(tree, {rows.get(), random.n_examples()});
        std::optional<plan::Schedule> schedule;
        const plan::ScheduleLimits limits = random_limits(bytes);
        // Refused arguments leave the cache as usable as it was.
        if (is_refused([&] { schedule = cache.place(part, labels, limits); })) continue;
        if (!schedule) {
            expect(cache.n_held() == 0, "a cache holds what it had to give up");
            continue;
        }
        const auto forwarded = std::make_unique<bool[]>(part.parent.size());
        const bool is_whole = !bytes.rarely();
        for (std::size_t s = 0; s < part.parent.size(); ++s) {
            const std::int32_t above = part.parent[s];
            const bool can = above < 0 || forwarded[static_cast<std::size_t>(above)];
            forwarded[s] = can && (is_whole || bytes.flag());
        }
        pool.run(part, *schedule, labels, {forwarded.get(), part.parent.size()});
        cache.finish({forwarded.get(), part.parent.size()});
        expect(cache.held_tokens() <= n_slots, "a cache holds more than its pool");
    }
}

}  // namespace
}  // namespace icm_fast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    icm_fast::fuzz::Bytes bytes(data, size);
    icm_fast::fuzz::fuzz_cache(bytes);
    return 0;
}
