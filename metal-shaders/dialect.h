// The only place where the compilers differ; other compilers than Metal's bring their own definitions.
#pragma once

#ifdef __METAL_VERSION__
#define KERNEL_INSTANCE(name, ...) template [[host_name(name)]] [[kernel]] decltype(__VA_ARGS__) __VA_ARGS__;
#define FUNCTION_CONSTANT(type, name, index) constant type name [[function_constant(index)]]
#endif
