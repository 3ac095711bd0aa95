// The tables by which kernels find routed experts.
#pragma once

// Where the matrices of an expert lie.
struct ExpertSlot {
    device const uchar * gate;
    device const uchar * up;
    device const uchar * down;
};

// Up to 32 routes that chose one expert: routes[first] to routes[first + n - 1], indices into [n, n_used].
struct RouteTile {
    uint slot;
    uint first;
    uint n;
};
