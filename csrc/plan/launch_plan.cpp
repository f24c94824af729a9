#include "plan/launch_plan.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace icm_fast::plan {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
// Programs that a multiprocessor has at a time.
constexpr std::int64_t kProgramsPerSm = 2;
// A part shorter than this costs more to merge than it saves.
constexpr std::int64_t kMinSplitBlocks = 4;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

void check(const LaunchSettings& settings) {
    const auto check_one = [](const char* name, std::int64_t value, std::int64_t least) {
        if (value >= least) return;
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                    "; it must be " + std::to_string(least) + " or more");
    };
    check_one("group", settings.group, 1);
    check_one("kv_heads", settings.kv_heads, 1);
    check_one("block_m", settings.block_m, 1);
    check_one("block_n", settings.block_n, 1);
    check_one("window", settings.window, 0);
    check_one("n_sms", settings.n_sms, 0);
}

void check_fits(std::int64_t number) {
    if (number <= kMost) return;
    throw std::invalid_argument("slots, positions and query rows must be below 2^31, not " +
                                std::to_string(number));
}

void check_rows(std::span<const PackedSegment> segments, std::int64_t n_tokens) {
    std::int64_t covered = 0;
    bool follow = true;
    for (const PackedSegment& segment : segments) {
        follow = follow && segment.begin == covered && segment.end >= covered;
        covered = segment.end;
    }
    if (follow && covered == n_tokens) return;
    throw std::invalid_argument("the segments' rows must follow each other and cover " +
                                std::to_string(n_tokens) + " rows");
}

// A segment whose rows are known to be in order.
void check_ranges(const PackedSegment& segment) {
    const auto check_one = [](std::int64_t begin, std::int64_t end) {
        if (begin < 0 || end < begin) {
            throw std::invalid_argument(
                "a segment's range of slots is backwards or starts below 0");
        }
        check_fits(end);
    };
    std::int64_t position = 0;
    for (const auto& [begin, end] : segment.ranges) {
        check_one(begin, end);
        position += end - begin;
    }
    // Before anything is added to it.
    check_fits(segment.own);
    const std::int64_t length = segment.end - segment.begin;
    check_one(segment.own, segment.own + length);
    if (position != segment.start) {
        throw std::invalid_argument("the ranges before a segment do not add up to its position");
    }
    check_fits(position + length);
}

// A run of slots side by side, in context order.
struct Piece {
    std::int64_t begin;
    std::int64_t length;
    std::int64_t position;
    bool is_own;
};

class Builder {
  public:
    explicit Builder(const LaunchSettings& settings) : settings_(settings) {}

    void add(const PackedSegment& segment) {
        find_pieces(segment);
        const auto first = static_cast<std::int64_t>(plan_.blocks.size());
        const std::int64_t n_whole = settings_.window != 0 ? add_blocks_in_order() : add_blocks();
        // Items name blocks by int32, too.
        check_fits(static_cast<std::int64_t>(plan_.blocks.size()));
        add_tiles(segment, first, n_whole);
    }

    LaunchPlan finish() && {
        if (settings_.n_sms != 0) split();
        // Those that take longest begin first, so that none ends late.
        std::ranges::stable_sort(plan_.items, std::ranges::greater{}, n_blocks);
        return std::move(plan_);
    }

  private:
    static std::int64_t n_blocks(const LaunchItem& item) {
        return std::int64_t{item.end_block} - item.first_block;
    }

    // Drops empty ranges and joins ancestors that lie side by side: fewer blocks end early. The own
    // range stays apart, for its keys need a mask.
    void find_pieces(const PackedSegment& segment) {
        pieces_.clear();
        std::int64_t position = 0;
        for (const auto& [begin, end] : segment.ranges) {
            if (begin == end) continue;
            if (!pieces_.empty() && pieces_.back().begin + pieces_.back().length == begin) {
                pieces_.back().length += end - begin;
            } else {
                pieces_.push_back({begin, end - begin, position, false});
            }
            position += end - begin;
        }
        const std::int64_t length = segment.end - segment.begin;
        if (length > 0) pieces_.push_back({segment.own, length, position, true});
        for (const Piece& piece : pieces_) {
            plan_.slot_end = std::max(plan_.slot_end, piece.begin + piece.length);
        }
    }

    // Blocks that every row sees in full first, then those that need a mask; the number of the
    // former. Own blocks come last and in order.
    std::int64_t add_blocks() {
        const std::int64_t size = settings_.block_n;
        std::int64_t n_whole = 0;
        for (const Piece& piece : pieces_) {
            if (piece.is_own) continue;
            for (std::int64_t k = 0; k < piece.length / size; ++k) add_block(piece, k * size);
            n_whole += piece.length / size;
        }
        for (const Piece& piece : pieces_) {
            const std::int64_t first = piece.is_own ? 0 : piece.length / size * size;
            for (std::int64_t k = first; k < piece.length; k += size) add_block(piece, k);
        }
        return n_whole;
    }

    // A window is a run of blocks only in the order of the context, and then none is whole.
    std::int64_t add_blocks_in_order() {
        for (const Piece& piece : pieces_) {
            for (std::int64_t k = 0; k < piece.length; k += settings_.block_n) add_block(piece, k);
        }
        return 0;
    }

    void add_block(const Piece& piece, std::int64_t done) {
        plan_.blocks.push_back({
            .slot = static_cast<std::int32_t>(piece.begin + done),
            .n_keys = static_cast<std::int32_t>(
                std::min<std::int64_t>(settings_.block_n, piece.length - done)),
            .position = static_cast<std::int32_t>(piece.position + done),
            .unused = 0,
        });
    }

    // Tiles of the segment whose blocks begin at `first`.
    void add_tiles(const PackedSegment& segment, std::int64_t first, std::int64_t n_whole) {
        const std::int64_t length = segment.end - segment.begin;
        const std::int64_t n_rows = length * settings_.group;
        const std::int64_t n_own = ceil_div(length, settings_.block_n);
        const auto end = static_cast<std::int64_t>(plan_.blocks.size());
        for (std::int64_t row = 0; row < n_rows; row += settings_.block_m) {
            const std::int64_t last_row = std::min(row + settings_.block_m, n_rows) - 1;
            // Own blocks in the future of all rows.
            const std::int64_t future = n_own - last_row / settings_.group / settings_.block_n - 1;
            std::int64_t low = first;
            std::int64_t whole_end = first + n_whole;
            if (settings_.window != 0) {
                low = first_seen(segment.start + row / settings_.group - settings_.window, first);
                whole_end = low;
            }
            plan_.items.push_back({
                .begin = static_cast<std::int32_t>(segment.begin),
                .first_row = static_cast<std::int32_t>(row),
                .n_rows = static_cast<std::int32_t>(n_rows),
                .start = static_cast<std::int32_t>(segment.start),
                .first_block = static_cast<std::int32_t>(low),
                .mask_block = static_cast<std::int32_t>(whole_end),
                .end_block = static_cast<std::int32_t>(end - future),
                .partial = -1,
            });
        }
    }

    // The first of the last segment's blocks, from `first` on and in context order, that holds a
    // key after `position`, which may lie before the context.
    [[nodiscard]] std::int64_t first_seen(std::int64_t position, std::int64_t first) const {
        const auto begin = plan_.blocks.begin() + first;
        const auto found =
            std::partition_point(begin, plan_.blocks.end(), [position](const KeyBlock& block) {
                return std::int64_t{block.position} + block.n_keys - 1 <= position;
            });
        return found - plan_.blocks.begin();
    }

    // Cuts the blocks of long tiles into parts of nearly equal length.
    void split() {
        std::int64_t total = 0;
        for (const LaunchItem& tile : plan_.items) total += n_blocks(tile);
        const std::int64_t programs = settings_.n_sms * kProgramsPerSm;
        const std::int64_t share =
            std::max(kMinSplitBlocks, ceil_div(total * settings_.kv_heads, programs));
        std::vector<LaunchItem> items;
        for (const LaunchItem& tile : plan_.items) {
            const std::int64_t n_parts = ceil_div(n_blocks(tile), share);
            if (n_parts > 1) {
                add_parts(tile, n_parts, items);
            } else {
                items.push_back(tile);
            }
        }
        plan_.items = std::move(items);
    }

    void add_parts(const LaunchItem& tile, std::int64_t n_parts, std::vector<LaunchItem>& items) {
        plan_.merges.push_back({
            .begin = tile.begin,
            .first_row = tile.first_row,
            .n_rows = tile.n_rows,
            .start = tile.start,
            .first_partial = static_cast<std::int32_t>(plan_.n_partials),
            .n_partials = static_cast<std::int32_t>(n_parts),
        });
        const auto border = [&](std::int64_t part) {
            return static_cast<std::int32_t>(tile.first_block + n_blocks(tile) * part / n_parts);
        };
        for (std::int64_t part = 0; part < n_parts; ++part) {
            LaunchItem item = tile;
            item.first_block = border(part);
            item.end_block = border(part + 1);
            item.mask_block = std::clamp(tile.mask_block, item.first_block, item.end_block);
            item.partial = static_cast<std::int32_t>(plan_.n_partials++);
            items.push_back(item);
        }
    }

    const LaunchSettings& settings_;
    LaunchPlan plan_;
    std::vector<Piece> pieces_;  // of one segment
};

}  // namespace

LaunchPlan make_launch_plan(std::span<const PackedSegment> segments, std::int64_t n_tokens,
                            const LaunchSettings& settings) {
    check(settings);
    check_rows(segments, n_tokens);
    check_fits(n_tokens);
    check_fits(n_tokens * settings.group);
    for (const PackedSegment& segment : segments) check_ranges(segment);
    Builder builder(settings);
    for (const PackedSegment& segment : segments) {
        const std::int64_t n_rows = (segment.end - segment.begin) * settings.group;
        const bool is_served = n_rows >= settings.lengths_begin && n_rows < settings.lengths_end;
        if (is_served) builder.add(segment);
    }
    return std::move(builder).finish();
}

}  // namespace icm_fast::plan
