// The structures that kernels have at buffer 0; src/backend/metal/args.rs has the same.
#pragma once

struct CopyArgs {
    uint n;
};
