// The structures that kernels have at buffer 0; src/backend/metal/args.rs has the same.
#pragma once

struct CopyArgs {
    uint n;
};

struct EmbedArgs {
    uint n;
    uint cols;
    uint row_bytes;
};

struct ProductArgs {
    uint n;
    uint rows;
    uint cols;
    uint row_bytes;
    uint x_stride;
    uint y_stride;
    uint split;
    uint tile;
};

struct ExpertArgs {
    uint n_used;
    uint rows;
    uint cols;
    uint row_bytes;
    float clamp;
};

struct SwigluArgs {
    uint n;
    float clamp;
};

struct CombineArgs {
    uint n;
    uint n_used;
    uint n_embd;
};

struct NormArgs {
    uint dim;
    float eps;
};

struct HeadNormArgs {
    uint n_rows;
    uint n_head;
    uint dim;
    uint n_rot;
    float eps;
};

struct StoreKeysArgs {
    uint dim;
    uint n_rot;
    uint row_bytes;
    float eps;
};

struct CommitKeysArgs {
    uint first;
    uint pos;
    uint window;
    uint row_bytes;
};

struct HyperMixArgs {
    uint n;
    uint rows;
    uint cols;
    uint row_bytes;
    float eps;
};

struct HyperArgs {
    uint n_embd;
    uint n_sinkhorn;
    float eps;
    float rms_eps;
    float scale_pre;
    float scale_post;
    float scale_matrix;
};

struct HyperExitArgs {
    uint n_embd;
};

struct CompressArgs {
    uint pos;
    uint first;
    uint ratio;
    uint overlap;
    uint dim;
    uint n_rot;
    uint capacity;
    uint row_bytes;
    float eps;
};

struct CompressCommitArgs {
    uint first;
    uint n;
    uint pos;
    uint ratio;
    uint width;
    uint capacity;
};

struct IndexQueriesArgs {
    uint n_rows;
    uint n_head;
    uint dim;
    uint n_rot;
};

struct IndexArgs {
    uint first;
    uint pos;
    uint ratio;
    uint n_head;
    uint dim;
    uint top_k;
    uint stride;
    uint row_bytes;
    float scale;
};

struct AttendArgs {
    uint pos;
    uint n_head;
    uint n_rot;
    uint window;
    uint ratio;
    uint top_k;
    uint row_bytes;
    uint n_parts;
    uint part;
    float scale;
};

struct RouteArgs {
    uint n_expert;
    uint n_used;
    uint has_bias;
    uint is_preset;
    float scale;
};
