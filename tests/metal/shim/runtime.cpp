// Runs kernels on x86-64 Linux: a thread of the GPU is a fibre, a threadgroup runs on one thread of the system.
//
// A fibre runs until it waits (for its simdgroup or its group) or ends. Which one is next decides nothing in a correct
// kernel, so the seed of a dispatch chooses: 0 is the order of the indices, others shuffle groups, simdgroups and lanes.
// Threadgroup memory is filled with NaN before each group and ends at a page that nobody may touch. Threads that meet at
// different places, or wait for threads that have ended, are an error with both places.
//
// Built with THREAD_SANITIZER, each fibre is a thread to ThreadSanitizer: barriers order memory, nothing else does.

#include "fibres.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#ifdef THREAD_SANITIZER
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fibre);
void __tsan_switch_to_fiber(void* fibre, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
constexpr bool is_sanitized = true;
#else
constexpr bool is_sanitized = false;
static void* __tsan_get_current_fiber() { return nullptr; }
static void* __tsan_create_fiber(unsigned) { return nullptr; }
static void __tsan_destroy_fiber(void*) {}
static void __tsan_switch_to_fiber(void*, unsigned) {}
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif

// Saves the registers that a call must keep, and goes on where `to` was saved.
extern "C" void fibre_switch(void** save, void* to);
asm(R"(
    .text
    .type fibre_switch, @function
fibre_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size fibre_switch, . - fibre_switch
)");

namespace fibres {
__thread Thread* current;
}

namespace {

using namespace fibres;

constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned MAX_SHARED = 32768;
constexpr size_t PAGE = 4096;
constexpr size_t STACK = 64 << 10;
// __tsan_switch_to_fiber without an order between the two.
constexpr unsigned UNORDERED = 1;

enum class State { fresh, going, at_operation, at_barrier, ended };

struct Lane : Thread {
    State state;
    void* stack_pointer;
    unsigned stack;
    Site site;  // where it waits
    Lane* next;  // ring of those of the simdgroup that have not ended
    Lane* previous;
    void* sanitizer_fibre;
};

struct Simdgroup : Exchange {
    Lane* head;  // of the ring; null when all have ended
    unsigned n_at_operation;
    unsigned n_at_barrier;
    unsigned n_ended;
};

void* map(size_t bytes, int protection, void* at = nullptr)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0);
    void* mapped = mmap(at, bytes, protection, flags, -1, 0);
    if (mapped == MAP_FAILED) {
        perror("the runtime of kernels: mmap");
        abort();
    }
    return mapped;
}

struct Random {
    uint64_t state;
    // Below n.
    unsigned below(unsigned n)
    {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return unsigned((state >> 33) % n);
    }
    void shuffle(unsigned* values, unsigned n)
    {
        for (unsigned i = n; i > 1; i--) std::swap(values[i - 1], values[below(i)]);
    }
};

// Written by the threads of a dispatch.
struct Dispatch {
    const Kernel* kernel;
    Arguments arguments;
    unsigned n_groups[3];
    unsigned n_threads[3];
    unsigned shared;
    unsigned seed;
    uint64_t total;  // groups
    uint64_t step;  // group number i is i * step modulo total
    std::atomic<uint64_t> next{0};
    std::atomic<bool> has_failed{false};
    std::string message;  // of the first that fails
    // Addresses whose order ThreadSanitizer is told.
    char started, ended;
};

std::string text_of(Site site)
{
    return std::string(site.file) + ":" + std::to_string(site.line);
}

// Runs the groups of a dispatch, one at a time.
class Worker {
public:
    Worker()
    {
        stacks = (char*)map(stack_stride * MAX_THREADS, PROT_NONE);
        char* memory = (char*)map(MAX_SHARED + PAGE, PROT_READ | PROT_WRITE);
        mprotect(memory + MAX_SHARED, PAGE, PROT_NONE);
        shared_end = memory + MAX_SHARED;
    }

    void run(Dispatch& work)
    {
        dispatch = &work;
        arguments = work.arguments;
        arguments.shared = shared_end - work.shared;
        n_threads = work.n_threads[0] * work.n_threads[1] * work.n_threads[2];
        group.n_simdgroups = n_threads / LANES;
        for (int i = 0; i < 3; i++) {
            group.n_groups[i] = work.n_groups[i];
            group.n_threads[i] = work.n_threads[i];
        }
        for (unsigned i = 0; i < n_threads; i++) {
            Lane& lane = lanes[i];
            lane.exchange = &simdgroups[i / LANES];
            lane.group = &group;
            lane.position[0] = i % work.n_threads[0];
            lane.position[1] = i / work.n_threads[0] % work.n_threads[1];
            lane.position[2] = i / work.n_threads[0] / work.n_threads[1];
            lane.index = i;
            lane.lane = i % LANES;
            lane.simdgroup = i / LANES;
        }
        for (; n_stacks < n_threads; n_stacks++) {
            mprotect(stacks + n_stacks * stack_stride + PAGE, stack_stride - PAGE, PROT_READ | PROT_WRITE);
        }
        std::iota(lane_order, lane_order + LANES, 0);
        if (work.seed) Random{work.seed}.shuffle(lane_order, LANES);

        const uint64_t taken = std::clamp<uint64_t>(work.total / 64, 1, 16);
        for (;;) {
            const uint64_t first = work.next.fetch_add(taken), end = std::min(first + taken, work.total);
            if (first >= work.total) return;
            for (uint64_t i = first; i < end; i++) {
                if (work.has_failed) return;
                run_group(i * work.step % work.total);
            }
        }
    }

    bool arrive(Lane& me, Site site, bool orders)
    {
        Simdgroup& simdgroup = simdgroups[me.simdgroup];
        const char* what = "a simdgroup operation";
        if (simdgroup.n_ended) fail(me, site, what, ended_lane(me));
        if (simdgroup.n_at_barrier) fail(me, site, what, waiting_lane(me, State::at_barrier));
        if (simdgroup.n_at_operation) {
            Lane& other = waiting_lane(me, State::at_operation);
            if (!is_same(other.site, site)) fail(me, site, what, other);
        }
        if (orders) __tsan_release(&simdgroup);
        me.site = site;
        if (++simdgroup.n_at_operation == LANES) {
            simdgroup.n_at_operation = 0;
            simdgroup.generation++;
            if (orders) __tsan_acquire(&simdgroup);
            return true;
        }
        me.state = State::at_operation;
        const unsigned generation = simdgroup.generation;
        // The next lane is fresh, or was let go like this one.
        while (simdgroup.generation == generation) switch_to(*me.next);
        me.state = State::going;
        if (orders) __tsan_acquire(&simdgroup);
        return false;
    }

    void wait_for_group(Lane& me, Site site)
    {
        Simdgroup& simdgroup = simdgroups[me.simdgroup];
        const char* what = "a threadgroup barrier";
        if (n_ended) fail(me, site, what, ended_lane(me));
        if (simdgroup.n_at_operation) fail(me, site, what, waiting_lane(me, State::at_operation));
        if (n_at_barrier && !is_same(first_at_barrier->site, site)) fail(me, site, what, *first_at_barrier);
        if (n_at_barrier == 0) first_at_barrier = &me;
        __tsan_release(&barriers);
        me.site = site;
        simdgroup.n_at_barrier++;
        if (++n_at_barrier == n_threads) {
            n_at_barrier = 0;
            for (unsigned i = 0; i < group.n_simdgroups; i++) simdgroups[i].n_at_barrier = 0;
            barriers++;
            __tsan_acquire(&barriers);
            return;
        }
        me.state = State::at_barrier;
        const unsigned barrier = barriers;
        while (barriers == barrier) {
            switch_to(simdgroup.n_at_barrier < LANES ? *me.next : *next_simdgroup().head);
        }
        me.state = State::going;
        turn = std::find(order, order + group.n_simdgroups, me.simdgroup) - order;
        __tsan_acquire(&barriers);
    }

    // On its own stack: runs fresh lanes as long as each ends without a wait, which makes those cheap.
    [[noreturn]] void fibre()
    {
        for (;;) {
            Lane* me = static_cast<Lane*>(current);
            __tsan_acquire(&dispatch->started);
            dispatch->kernel->launch(arguments);
            me = static_cast<Lane*>(current);
            __tsan_release(&dispatch->ended);
            Lane* next = end(*me);
            if (!next) leave();
            if (next->state == State::fresh && !is_sanitized) {
                next->stack = me->stack;
                next->state = State::going;
                current = next;
                continue;
            }
            if (!is_sanitized) free_stacks[n_free++] = me->stack;
            switch_to(*next);
        }
    }

private:
    // A stack, and the page before it that nobody may touch.
    static constexpr size_t stack_stride = STACK + 2 * PAGE;

    void run_group(uint64_t number)
    {
        group.position[0] = number % group.n_groups[0];
        group.position[1] = number / group.n_groups[0] % group.n_groups[1];
        group.position[2] = number / group.n_groups[0] / group.n_groups[1];
        Random random{dispatch->seed + number};
        std::iota(order, order + group.n_simdgroups, 0);
        const unsigned start = dispatch->seed ? random.below(LANES) : 0;
        if (dispatch->seed) random.shuffle(order, group.n_simdgroups);

        for (unsigned i = 0; i < group.n_simdgroups; i++) {
            Simdgroup& simdgroup = simdgroups[i];
            Lane* own = lanes + i * LANES;
            simdgroup.generation = simdgroup.n_at_operation = simdgroup.n_at_barrier = simdgroup.n_ended = 0;
            simdgroup.head = own + lane_order[start];
            for (unsigned k = 0; k < LANES; k++) {
                Lane& lane = own[lane_order[k]];
                lane.state = State::fresh;
                lane.next = own + lane_order[(k + 1) % LANES];
                lane.previous = own + lane_order[(k + LANES - 1) % LANES];
            }
        }
        n_at_barrier = n_ended = turn = 0;
        n_free = n_threads;
        for (unsigned i = 0; i < n_threads; i++) free_stacks[i] = n_threads - 1 - i;
        if (is_sanitized) renew_memory();
        memset(arguments.shared, 0xFF, dispatch->shared);
        if (is_sanitized) make_fibres();

        Lane& first = *simdgroups[order[0]].head;
        prepare(first);
        current = &first;
        __tsan_switch_to_fiber(first.sanitizer_fibre, UNORDERED);
        fibre_switch(&own_stack_pointer, first.stack_pointer);

        if (is_sanitized) {
            for (unsigned i = 0; i < n_threads; i++) __tsan_destroy_fiber(lanes[i].sanitizer_fibre);
        }
    }

    // Groups have no order among them: new memory for each, or its second use would look like a race.
    void renew_memory()
    {
        map(MAX_SHARED, PROT_READ | PROT_WRITE, shared_end - MAX_SHARED);
        for (unsigned i = 0; i < n_threads; i++) {
            map(stack_stride - PAGE, PROT_READ | PROT_WRITE, stacks + i * stack_stride + PAGE);
        }
    }

    // What was done so far comes before what they do.
    void make_fibres()
    {
        own_fibre = __tsan_get_current_fiber();
        for (unsigned i = 0; i < n_threads; i++) lanes[i].sanitizer_fibre = __tsan_create_fiber(0);
    }

    // Gives a fresh lane a stack that starts in fibre().
    void prepare(Lane& lane);

    void switch_to(Lane& to)
    {
        Lane& me = *static_cast<Lane*>(current);
        if (to.state == State::fresh) prepare(to);
        current = &to;
        __tsan_switch_to_fiber(to.sanitizer_fibre, UNORDERED);
        fibre_switch(&me.stack_pointer, to.stack_pointer);
    }

    // Back to run_group().
    [[noreturn]] void leave()
    {
        __tsan_switch_to_fiber(own_fibre, UNORDERED);
        void* nowhere;
        fibre_switch(&nowhere, own_stack_pointer);
        __builtin_unreachable();
    }

    // Takes a lane out of its ring. Which one runs next; null when all of the group have ended.
    Lane* end(Lane& me)
    {
        Simdgroup& simdgroup = simdgroups[me.simdgroup];
        me.state = State::ended;
        if (simdgroup.n_at_operation) fail_ended(me, waiting_lane(me, State::at_operation), "a simdgroup operation");
        if (n_at_barrier) fail_ended(me, *first_at_barrier, "a threadgroup barrier");
        simdgroup.n_ended++;
        if (++n_ended == n_threads) return nullptr;
        if (me.next == &me) {
            simdgroup.head = nullptr;
            return next_simdgroup().head;
        }
        me.previous->next = me.next;
        me.next->previous = me.previous;
        if (simdgroup.head == &me) simdgroup.head = me.next;
        return me.next;
    }

    // The next in order with lanes that can go on.
    Simdgroup& next_simdgroup()
    {
        for (;;) {
            turn = turn + 1 == group.n_simdgroups ? 0 : turn + 1;
            Simdgroup& simdgroup = simdgroups[order[turn]];
            if (simdgroup.head && simdgroup.n_at_barrier < LANES) return simdgroup;
        }
    }

    static bool is_same(Site a, Site b) { return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0); }

    // Another lane of the same simdgroup.
    Lane& lane_with(const Lane& me, State state)
    {
        Lane* own = lanes + me.simdgroup * LANES;
        return *std::find_if(own, own + LANES, [&](const Lane& lane) { return &lane != &me && lane.state == state; });
    }
    Lane& waiting_lane(const Lane& me, State state)
    {
        // The lane before this one in the ring came last, and is the one wanted unless it was let go.
        const unsigned n = state == State::at_barrier ? simdgroups[me.simdgroup].n_at_barrier : simdgroups[me.simdgroup].n_at_operation;
        return n && me.previous->state == state ? *me.previous : lane_with(me, state);
    }
    // Of the simdgroup if there is one, else of the group.
    Lane& ended_lane(const Lane& me)
    {
        if (simdgroups[me.simdgroup].n_ended) return lane_with(me, State::ended);
        return *std::find_if(lanes, lanes + n_threads, [](const Lane& lane) { return lane.state == State::ended; });
    }

    static std::string name_of(const Lane& lane)
    {
        return "lane " + std::to_string(lane.lane) + " of simdgroup " + std::to_string(lane.simdgroup);
    }

    [[noreturn]] void fail(const Lane& me, Site site, const char* what, const Lane& other)
    {
        std::string message = name_of(me) + " is at " + what + " (" + text_of(site) + "), but " + name_of(other);
        switch (other.state) {
        case State::at_operation: message += " at a simdgroup operation (" + text_of(other.site) + ")"; break;
        case State::at_barrier: message += " at a threadgroup barrier (" + text_of(other.site) + ")"; break;
        default: message += " has ended"; break;
        }
        fail(message);
    }
    [[noreturn]] void fail_ended(const Lane& me, const Lane& other, const char* what)
    {
        fail(name_of(me) + " has ended, but " + name_of(other) + " waits at " + what + " (" + text_of(other.site) + ")");
    }
    [[noreturn]] void fail(const std::string& why)
    {
        if (!dispatch->has_failed.exchange(true)) {
            char place[64];
            snprintf(place, sizeof place, "threadgroup (%u, %u, %u): ", group.position[0], group.position[1], group.position[2]);
            dispatch->message = place + why;
        }
        leave();
    }

    Lane lanes[MAX_THREADS];
    Simdgroup simdgroups[MAX_THREADS / LANES];
    Group group;
    Dispatch* dispatch;
    Arguments arguments;
    unsigned n_threads, n_at_barrier, n_ended;
    unsigned barriers = 0;  // that all threads arrived at
    Lane* first_at_barrier;
    unsigned lane_order[LANES];
    unsigned order[MAX_THREADS / LANES];  // of simdgroups
    unsigned turn;  // place in it of the one that runs
    char* stacks;
    char* shared_end;
    unsigned n_stacks = 0;  // that can be touched
    unsigned free_stacks[MAX_THREADS], n_free;
    void* own_stack_pointer;
    void* own_fibre = nullptr;
};

__thread Worker* worker __attribute__((tls_model("initial-exec")));

void start_of_fibre()
{
    worker->fibre();
}

void Worker::prepare(Lane& lane)
{
    lane.stack = is_sanitized ? unsigned(&lane - lanes) : free_stacks[--n_free];
    lane.state = State::going;
    // Stacks whose tops were a whole number of pages apart would compete for the same sets of the cache.
    const size_t shift = lane.stack * 1088 % PAGE / 64 * 64;
    void** top = (void**)(stacks + (lane.stack + 1) * stack_stride - shift);
    *--top = nullptr;  // where start_of_fibre() would return to
    *--top = (void*)start_of_fibre;
    lane.stack_pointer = top - 6;  // registers
}

}  // namespace

bool fibres::arrive(Site site, bool orders)
{
    return worker->arrive(*static_cast<Lane*>(current), site, orders);
}

void fibres::wait_for_group(Site site)
{
    worker->wait_for_group(*static_cast<Lane*>(current), site);
}

// What a library exports.

struct msl_constant {
    uint32_t index;
    uint32_t value;
};

struct msl_dispatch_t {
    const char* kernel;
    void* const* buffers;  // 31
    uint32_t groups[3];
    uint32_t threads[3];
    uint32_t shared;  // bytes
    uint32_t seed;
    uint32_t n_threads;  // of the system
    const msl_constant* constants;
    uint32_t n_constants;
};

// The name of kernel `i`; null after the last.
extern "C" const char* msl_kernel_name(uint32_t i)
{
    return i < n_kernels ? kernels[i].name : nullptr;
}

// What it does with its arguments, see fibres::Kernel.
extern "C" const char* msl_kernel_access(uint32_t i)
{
    return i < n_kernels ? kernels[i].access : nullptr;
}

// The function constants that it needs.
extern "C" uint32_t msl_kernel_constants(uint32_t i, const uint32_t** indices)
{
    *indices = i < n_kernels ? kernels[i].needs : nullptr;
    return i < n_kernels ? kernels[i].n_needs : 0;
}

// One dispatch at a time: function constants are variables.
static std::mutex one_at_a_time;
static std::vector<std::unique_ptr<Worker>> workers;

// Everything that makes a dispatch impossible, in words; empty when nothing does.
static std::string refusal(const msl_dispatch_t& d, const Kernel*& kernel)
{
    kernel = std::find_if(kernels, kernels + n_kernels, [&](const Kernel& k) { return strcmp(k.name, d.kernel) == 0; });
    if (kernel == kernels + n_kernels) return "there is no such kernel";
    const uint64_t threads = uint64_t(d.threads[0]) * d.threads[1] * d.threads[2];
    if (threads == 0 || threads > MAX_THREADS || threads % LANES) {
        return std::to_string(threads) + " threads a group, expected a multiple of 32 up to 1024";
    }
    if (d.groups[0] == 0 || d.groups[1] == 0 || d.groups[2] == 0) return "no groups";
    const char* letter = kernel->access;
    for (unsigned i = 0; *letter != ':'; i++, letter++) {
        if (*letter != '-' && !d.buffers[i]) return "buffer " + std::to_string(i) + " is not set";
    }
    const bool has_shared = letter[1] != '0';
    if (d.shared % 16 || d.shared > MAX_SHARED) {
        return std::to_string(d.shared) + " bytes of threadgroup memory, expected a multiple of 16 up to 32768";
    }
    if (has_shared && d.shared == 0) return "threadgroup memory is not set";
    for (unsigned i = 0; i < kernel->n_needs; i++) {
        const auto is_it = [&](const msl_constant& c) { return c.index == kernel->needs[i]; };
        if (std::none_of(d.constants, d.constants + d.n_constants, is_it)) {
            return "function constant " + std::to_string(kernel->needs[i]) + " is not set";
        }
    }
    return "";
}

// Runs a kernel. 0 when it is done; else `message` says what was wrong.
extern "C" int msl_dispatch(const msl_dispatch_t* d, char* message, size_t message_len)
{
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    Dispatch dispatch;
    dispatch.message = refusal(*d, dispatch.kernel);
    if (dispatch.message.empty()) {
        for (unsigned i = 0; i < n_constants; i++) {
            *constants[i].value = 0xFFFFFFFF;
            for (unsigned k = 0; k < d->n_constants; k++) {
                if (d->constants[k].index == constants[i].index) *constants[i].value = d->constants[k].value;
            }
        }
        memcpy(dispatch.arguments.buffers, d->buffers, sizeof dispatch.arguments.buffers);
        memcpy(dispatch.n_groups, d->groups, sizeof dispatch.n_groups);
        memcpy(dispatch.n_threads, d->threads, sizeof dispatch.n_threads);
        dispatch.shared = d->shared;
        dispatch.seed = d->seed;
        dispatch.total = uint64_t(d->groups[0]) * d->groups[1] * d->groups[2];
        // Any step without a common divisor visits each group once; total - 1 is the reverse order.
        const uint64_t steps[] = {1, dispatch.total - 1, dispatch.total / 2 + 1, dispatch.total / 3 + 1};
        dispatch.step = std::max<uint64_t>(steps[d->seed % 4], 1);
        while (std::gcd(dispatch.step, dispatch.total) != 1) dispatch.step++;

        // Threads of the system cost more than a small dispatch.
        const uint64_t threads = dispatch.total * d->threads[0] * d->threads[1] * d->threads[2];
        const unsigned most = threads < 8192 ? 1 : std::max(d->n_threads, 1u);
        const unsigned n = unsigned(std::min<uint64_t>(most, dispatch.total));
        while (workers.size() < n) workers.push_back(std::make_unique<Worker>());
        const auto run = [&](unsigned i) {
            worker = workers[i].get();
            worker->run(dispatch);
        };
        __tsan_release(&dispatch.started);
        std::vector<std::thread> others;
        for (unsigned i = 1; i < n; i++) others.emplace_back(run, i);
        run(0);
        for (std::thread& other : others) other.join();
        __tsan_acquire(&dispatch.ended);
    }
    if (message_len) snprintf(message, message_len, "%s", dispatch.message.c_str());
    return dispatch.message.empty() ? 0 : 1;
}
