// Binds the planners: `plan_tree`, `TreePlan`, `PrefixCache`, `RangeAllocator` and `plan_launch`.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/guarded.hpp"
#include "plan/launch_plan.hpp"
#include "plan/loo_tree.hpp"
#include "plan/prefix_cache.hpp"
#include "plan/range_allocator.hpp"
#include "plan/schedule.hpp"

namespace py = pybind11;

namespace icm_fast {
namespace {

// Without forcecast, so that numpy refuses lossy conversions (float to int, int64 to int32).
template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// Immutable once built, hence safe to read from several threads.
struct TreePlan {
    plan::LooTree tree;
    plan::Schedule schedule;
    bool is_kept = false;  // placed in a cache, which is to be told when it is done

    [[nodiscard]] std::int64_t forwarded_tokens() const {
        std::int64_t sum = 0;
        for (const std::int32_t s : schedule.batch_segments) {
            sum += tree.n_tokens[static_cast<std::size_t>(s)];
        }
        return sum;
    }
};

template <typename T>
std::span<const T> view(const Array<T>& array, const char* name) {
    if (array.ndim() != 1) {
        throw std::invalid_argument(std::string(name) + " has " + std::to_string(array.ndim()) +
                                    " dimensions; pass a flat array");
    }
    return {array.data(), static_cast<std::size_t>(array.size())};
}

// A read-only array over memory that `owner` keeps alive.
template <typename T>
py::array_t<T> frozen(const std::vector<T>& values, const py::object& owner) {
    py::array_t<T> array(static_cast<py::ssize_t>(values.size()), values.data(), owner);
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return array;
}

template <typename T>
py::array_t<T> copied(const std::vector<T>& values) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

using Cache = Guarded<plan::PrefixCache>;

TreePlan plan_tree(const Array<std::int64_t>& demonstration_tokens,
                   const Array<std::int64_t>& first_extra, const Array<std::int64_t>& query_tokens,
                   const Array<std::int64_t>& query_first_extra, const Array<bool>& labelled,
                   const Array<bool>& queried, std::int64_t root_tokens,
                   const Array<std::int32_t>& tail_parents, std::uint64_t seed,
                   std::int64_t kv_budget_tokens, std::int64_t batch_tokens,
                   const std::optional<Array<bool>>& rows, std::int64_t stage_tokens,
                   const std::optional<Array<double>>& priority,
                   const std::optional<Array<std::int32_t>>& appended, Cache* cache,
                   const std::optional<Array<std::int32_t>>& labels) {
    std::optional<std::span<const std::int32_t>> ending;
    if (appended) ending = view(*appended, "appended");
    if (cache != nullptr && !labels) throw std::invalid_argument("a cache needs labels");
    const plan::PlanInput input{
        .demonstration_tokens = view(demonstration_tokens, "demonstration_tokens"),
        .first_extra = view(first_extra, "first_extra"),
        .query_tokens = view(query_tokens, "query_tokens"),
        .query_first_extra = view(query_first_extra, "query_first_extra"),
        .labelled = view(labelled, "labelled"),
        .queried = view(queried, "queried"),
        .root_tokens = root_tokens,
        .tail_parents = view(tail_parents, "tail_parents"),
        .seed = seed,
        .appended = ending,
    };
    const auto forwarded = rows ? view(*rows, "rows") : std::span<const bool>();
    const auto shown = labels ? view(*labels, "labels") : std::span<const std::int32_t>();
    const auto order = priority ? view(*priority, "priority") : std::span<const double>();
    const py::gil_scoped_release release;
    plan::LooTree tree = plan::build_loo_tree(input);
    if (!forwarded.empty()) tree = plan::prune(tree, forwarded);
    const plan::ScheduleLimits limits{.kv_budget_tokens = kv_budget_tokens,
                                      .batch_tokens = batch_tokens,
                                      .stage_tokens = stage_tokens,
                                      .priority = order};
    if (cache != nullptr) {
        std::optional<plan::Schedule> kept = cache->call_unlocked(
            [&](plan::PrefixCache& held) { return held.place(tree, shown, limits); });
        if (kept) return {std::move(tree), std::move(*kept), true};
    }
    plan::Schedule schedule = plan::make_schedule(tree, limits);
    return {std::move(tree), std::move(schedule)};
}

template <typename T>
using Column = std::vector<T>;

template <typename Part, typename T>
void bind_column(py::class_<TreePlan>& cls, const char* name, Part TreePlan::* part,
                 Column<T> Part::* column, const char* doc) {
    cls.def_property_readonly(
        name,
        [part, column](const py::object& self) {
            return frozen(self.cast<const TreePlan&>().*part.*column, self);
        },
        doc);
}

void bind_segments(py::class_<TreePlan>& cls) {
    using plan::LooTree;
    bind_column(cls, "parent", &TreePlan::tree, &LooTree::parent, "Parent segment or -1.");
    bind_column(cls, "demo_offsets", &TreePlan::tree, &LooTree::demo_offsets,
                "Offsets into `demos`, n_segments + 1.");
    bind_column(cls, "demos", &TreePlan::tree, &LooTree::demos,
                "Examples whose demonstrations the segments hold, in order.");
    bind_column(cls, "query", &TreePlan::tree, &LooTree::query,
                "Example whose prompt or tail token the segment ends with, or -1.");
    bind_column(cls, "tail", &TreePlan::tree, &LooTree::tail, "Index into tail_parents, or -1.");
    bind_column(cls, "n_tokens", &TreePlan::tree, &LooTree::n_tokens, "Tokens of the segment.");
    bind_column(cls, "start", &TreePlan::tree, &LooTree::start,
                "Tokens before the segment in its context.");
    bind_column(cls, "has_root_token", &TreePlan::tree, &LooTree::has_root_token,
                "1 where the segment begins with BOS.");
    bind_column(cls, "query_segments", &TreePlan::tree, &LooTree::query_segment,
                "Per example: the segment that ends with its prompt, or -1.");
}

void bind_batches(py::class_<TreePlan>& cls) {
    using plan::Schedule;
    bind_column(cls, "kv_offset", &TreePlan::schedule, &Schedule::kv_offset,
                "Per segment: its first slot in the key/value pool.");
    bind_column(cls, "batch_offsets", &TreePlan::schedule, &Schedule::batch_offsets,
                "Offsets into `batch_segments`, n_batches + 1.");
    bind_column(cls, "batch_segments", &TreePlan::schedule, &Schedule::batch_segments,
                "Segments in the order they run.");
    cls.def_property_readonly("peak_kv_tokens",
                              [](const TreePlan& p) { return p.schedule.peak_kv_tokens; });
    cls.def_property_readonly("pool_tokens",
                              [](const TreePlan& p) { return p.schedule.pool_tokens; });
    cls.def_property_readonly("n_batches",
                              [](const TreePlan& p) { return p.schedule.n_batches(); });
}

void bind_counts(py::class_<TreePlan>& cls) {
    cls.def_property_readonly("total_tokens",
                              [](const TreePlan& p) { return p.tree.total_tokens; });
    cls.def_property_readonly("forwarded_tokens", &TreePlan::forwarded_tokens);
    cls.def_readonly("is_kept", &TreePlan::is_kept);
    cls.def_property_readonly("naive_tokens",
                              [](const TreePlan& p) { return p.tree.naive_tokens; });
    cls.def_property_readonly("longest_context",
                              [](const TreePlan& p) { return p.tree.longest_context; });
    cls.def_property_readonly("n_demonstration_encodings",
                              [](const TreePlan& p) { return p.tree.n_demonstration_encodings(); });
    cls.def_property_readonly("n_segments", [](const TreePlan& p) { return p.tree.n_segments(); });
}

void bind_tree_plan(py::module_& module) {
    py::class_<TreePlan> cls(module, "TreePlan",
                             "Segments, batches and key/value slots of one leave-one-out pass.");
    bind_segments(cls);
    bind_batches(cls);
    bind_counts(cls);
    cls.def(
        "context",
        [](const TreePlan& p, std::int64_t example) { return copied(p.tree.context(example)); },
        py::arg("example"), "Demonstrations before the query, in order.");
    cls.def(
        "query_segment",
        [](const TreePlan& p, std::int64_t example) { return p.tree.query_segment_of(example); },
        py::arg("example"), "The segment that ends with the prompt of the example.");
}

void check_integrity(const plan::RangeAllocator& allocator) {
    const std::string error = allocator.integrity_error();
    if (!error.empty()) throw std::runtime_error(error);
}

void bind_range_allocator(py::module_& module) {
    using plan::RangeAllocator;
    py::class_<RangeAllocator>(module, "RangeAllocator",
                               "First-fit allocator of contiguous token slots.")
        .def(py::init<>())
        .def("allocate", &RangeAllocator::allocate, py::arg("size"))
        .def("release", &RangeAllocator::release, py::arg("offset"))
        .def("check_integrity", &check_integrity)
        .def_property_readonly("capacity", &RangeAllocator::capacity)
        .def_property_readonly("live", &RangeAllocator::live)
        .def_property_readonly("peak", &RangeAllocator::peak)
        .def_property_readonly("holes", &RangeAllocator::holes);
}

void bind_prefix_cache(py::module_& module) {
    using plan::PrefixCache;
    const auto read = [](std::int64_t (PrefixCache::*number)() const) {
        return [number](Cache& cache) {
            return cache.call([number](const PrefixCache& held) { return (held.*number)(); });
        };
    };
    py::class_<Cache>(module, "PrefixCache", "Context segments that stay between plans.")
        .def(py::init([](std::int64_t n_slots) {
                 return std::make_unique<Cache>(std::in_place, n_slots);
             }),
             py::arg("n_slots"))
        .def(
            "finish",
            [](Cache& cache, const Array<bool>& forwarded) {
                cache.call([&](PrefixCache& held) { held.finish(view(forwarded, "forwarded")); });
            },
            py::arg("forwarded"))
        .def_property_readonly("n_slots", read(&PrefixCache::n_slots))
        .def_property_readonly("held_tokens", read(&PrefixCache::held_tokens))
        .def_property_readonly("n_held", read(&PrefixCache::n_held));
}

// A table of int32 with one row per struct; the array owns the memory, so nothing is copied.
template <typename Row>
py::array_t<std::int32_t> table(std::vector<Row>&& rows) {
    constexpr std::size_t kFields = sizeof(Row) / sizeof(std::int32_t);
    auto owned = std::make_unique<std::vector<Row>>(std::move(rows));
    const auto* numbers = reinterpret_cast<const std::int32_t*>(owned->data());
    const auto n_rows = static_cast<py::ssize_t>(owned->size());
    const py::capsule owner(owned.get(),
                            [](void* memory) { delete static_cast<std::vector<Row>*>(memory); });
    static_cast<void>(owned.release());
    const std::vector<py::ssize_t> shape{n_rows, static_cast<py::ssize_t>(kFields)};
    return py::array_t<std::int32_t>(shape, numbers, owner);
}

// begin, end, own, start and ranges, as in PackedSegment.
using SegmentTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                                std::vector<plan::SlotRange>>;

py::tuple plan_launch(std::vector<SegmentTuple> tuples, std::int64_t n_tokens, std::int32_t group,
                      std::int32_t kv_heads, std::int32_t block_m, std::int32_t block_n,
                      std::pair<std::int64_t, std::int64_t> lengths, std::int64_t window,
                      std::int32_t n_sms) {
    plan::LaunchPlan launch;
    {
        const py::gil_scoped_release release;
        std::vector<plan::PackedSegment> segments;
        segments.reserve(tuples.size());
        for (auto& [begin, end, own, start, ranges] : tuples) {
            segments.push_back({begin, end, own, start, std::move(ranges)});
        }
        launch = plan::make_launch_plan(segments, n_tokens,
                                        {.group = group,
                                         .kv_heads = kv_heads,
                                         .block_m = block_m,
                                         .block_n = block_n,
                                         .lengths_begin = lengths.first,
                                         .lengths_end = lengths.second,
                                         .window = window,
                                         .n_sms = n_sms});
    }
    return py::make_tuple(table(std::move(launch.items)), table(std::move(launch.blocks)),
                          table(std::move(launch.merges)), launch.n_partials, launch.slot_end);
}

}  // namespace

void bind_plan(py::module_& module) {
    bind_tree_plan(module);
    bind_prefix_cache(module);
    bind_range_allocator(module);
    module.def("plan_tree", &plan_tree, py::arg("demonstration_tokens"), py::arg("first_extra"),
               py::arg("query_tokens"), py::arg("query_first_extra"), py::arg("labelled"),
               py::arg("queried"), py::arg("root_tokens"), py::arg("tail_parents"), py::arg("seed"),
               py::arg("kv_budget_tokens"), py::arg("batch_tokens"), py::arg("rows") = py::none(),
               py::arg("stage_tokens") = 0, py::arg("priority") = py::none(),
               py::arg("appended") = py::none(), py::arg("cache") = py::none(),
               py::arg("labels") = py::none(),
               "Plan a leave-one-out pass; a pure function of its arguments.");
    module.def("plan_launch", &plan_launch, py::arg("segments"), py::arg("n_tokens"), py::kw_only(),
               py::arg("group"), py::arg("kv_heads"), py::arg("block_m"), py::arg("block_n"),
               py::arg("lengths"), py::arg("window"), py::arg("n_sms"),
               "Tables of one launch of a device's attention kernel.");
}

}  // namespace icm_fast
