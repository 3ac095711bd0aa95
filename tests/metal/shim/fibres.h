// Between kernels and the runtime that runs their threads as fibres. No system header is included here: kernels see it.
#pragma once
#pragma GCC system_header

namespace fibres {

// Threads of a simdgroup.
constexpr unsigned LANES = 32;

// A place in a kernel's source. As a default argument it is where the function with that argument was called.
struct Site {
    const char* file;
    int line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// What the lanes of a simdgroup hand to each other. Operations use the banks in turn: a lane that is still reading the
// result of one is not disturbed by a lane that has arrived at the next.
struct Exchange {
    alignas(32) char slots[2][LANES * 16];
    alignas(32) char results[2][LANES * 16];
    // Operations that all lanes arrived at.
    unsigned generation;
};

// A threadgroup and its place.
struct Group {
    unsigned position[3];
    unsigned n_groups[3];
    unsigned n_threads[3];
    unsigned n_simdgroups;
};

// A thread of the GPU and its place in its group.
struct Thread {
    Exchange* exchange;
    const Group* group;
    unsigned position[3];
    unsigned index;      // in the group
    unsigned lane;       // in the simdgroup
    unsigned simdgroup;  // in the group
};

// The one that runs.
extern __thread Thread* current __attribute__((tls_model("initial-exec")));

// Waits for all lanes of the simdgroup. True in the last one to arrive, which goes on before the others do. With `orders`,
// memory written before is seen after.
bool arrive(Site site, bool orders);

// Waits for all threads of the group; memory written before is seen after.
void wait_for_group(Site site);

// What a kernel is called with.
struct Arguments {
    void* buffers[31];
    void* shared;
};

// A kernel of the library; the generated end of the source defines the table.
struct Kernel {
    const char* name;
    // One letter a buffer (`c` constant, `r` read, `w` written, `-` none), `:`, number of threadgroup parameters.
    const char* access;
    void (*launch)(const Arguments&);
    // Indices of the function constants that must be set.
    const unsigned* needs;
    unsigned n_needs;
};
extern const Kernel kernels[];
extern const unsigned n_kernels;

// A function constant: a variable here, set before each dispatch.
struct Constant {
    unsigned index;
    unsigned* value;
};
extern const Constant constants[];
extern const unsigned n_constants;

}  // namespace fibres
