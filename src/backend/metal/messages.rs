//! FENCE: the messages that are sent, with the types of their methods: Apple's headers are the source.
//!
//! What it promises: each function sends one message with exactly the types of its method. A structure goes by value and
//! the compiler lowers it as C would; none is returned, and no method takes more than six arguments, the receiver
//! and the selector included, so that all travel in registers. `tests/metal` holds this table against a list
//! of the methods, and the calls it compiles to against those of clang.
#![allow(unsafe_code)]

use super::objc::{Id, Sel, Selector, objc_msgSend};
use std::ffi::{c_char, c_void};

/// MTLSize.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Size {
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

const _: () = assert!(size_of::<Size>() == 24 && align_of::<Size>() == 8);

/// A line of the table: what the tests compare.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Class or protocol of the receiver; `+` in front where the receiver is the class itself.
    pub receiver: &'static str,
    /// The selector.
    pub selector: &'static str,
    /// Types of its arguments, as Rust has them.
    pub arguments: &'static [&'static str],
    /// Type of the result, empty for none.
    pub result: &'static str,
}

macro_rules! messages {
    ($($module:ident $receiver:literal {
        $(fn $name:ident $selector:literal ($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*
    })*) => {
        /// The whole table.
        pub const ALL: &[Message] = &[$($(Message {
            receiver: $receiver,
            selector: $selector,
            arguments: &[$(stringify!($type)),*],
            result: concat!($(stringify!($result))?),
        },)*)*];

        $(
            #[doc = concat!("Messages to ", $receiver, ".")]
            pub mod $module {
                #[allow(unused_imports)]
                use super::*;
                $(
                    #[doc = concat!("`", $selector, "`")]
                    ///
                    /// # Safety
                    ///
                    #[doc = concat!("`receiver` is nil or a live ", $receiver, ", and the arguments are what the method expects.")]
                    pub unsafe fn $name(receiver: Id $(, $arg: $type)*) $(-> $result)? {
                        type Method = unsafe extern "C" fn(Id, Sel $(, $type)*) $(-> $result)?;
                        static SELECTOR: Selector =
                            Selector::new(match std::ffi::CStr::from_bytes_with_nul(concat!($selector, "\0").as_bytes()) {
                                Ok(name) => name,
                                Err(_) => panic!("a zero in a selector"),
                            });
                        // SAFETY: objc_msgSend jumps to the method of the receiver, with the arguments as they are: it
                        // is called with the method's type. It answers zero for nil.
                        unsafe {
                            let send: Method = std::mem::transmute(objc_msgSend as unsafe extern "C" fn());
                            send(receiver, SELECTOR.get() $(, $arg)*)
                        }
                    }
                )*
            }
        )*
    };
}

messages! {
    object_class "+NSObject" {
        fn new "new"() -> Id;
    }
    object "NSObject" {
        fn responds_to "respondsToSelector:"(selector: Sel) -> bool;
    }
    string_class "+NSString" {
        fn from_utf8 "stringWithUTF8String:"(text: *const c_char) -> Id;
    }
    string "NSString" {
        fn utf8 "UTF8String"() -> *const c_char;
    }
    error "NSError" {
        fn localized_description "localizedDescription"() -> Id;
    }
    device "MTLDevice" {
        fn name "name"() -> Id;
        fn supports_family "supportsFamily:"(family: isize) -> bool;
        fn has_unified_memory "hasUnifiedMemory"() -> bool;
        fn max_buffer_length "maxBufferLength"() -> usize;
        fn recommended_max_working_set_size "recommendedMaxWorkingSetSize"() -> u64;
        fn current_allocated_size "currentAllocatedSize"() -> usize;
        fn new_queue "newCommandQueue"() -> Id;
        fn new_buffer "newBufferWithLength:options:"(length: usize, options: usize) -> Id;
        fn new_buffer_no_copy "newBufferWithBytesNoCopy:length:options:deallocator:"(bytes: *mut c_void, length: usize, options: usize, deallocator: *const c_void) -> Id;
        fn new_library_with_data "newLibraryWithData:error:"(data: Id, error: *mut Id) -> Id;
        fn new_library_with_source "newLibraryWithSource:options:error:"(source: Id, options: Id, error: *mut Id) -> Id;
        fn new_pipeline "newComputePipelineStateWithFunction:error:"(function: Id, error: *mut Id) -> Id;
        fn new_shared_event "newSharedEvent"() -> Id;
        fn new_residency_set "newResidencySetWithDescriptor:error:"(descriptor: Id, error: *mut Id) -> Id;
    }
    compile_options "MTLCompileOptions" {
        fn set_language_version "setLanguageVersion:"(version: usize);
        fn set_math_mode "setMathMode:"(mode: isize);
        fn set_math_functions "setMathFloatingPointFunctions:"(functions: isize);
        fn set_fast_math "setFastMathEnabled:"(enabled: bool);
    }
    constant_values "MTLFunctionConstantValues" {
        fn set "setConstantValue:type:atIndex:"(value: *const c_void, kind: usize, index: usize);
    }
    library "MTLLibrary" {
        fn new_function "newFunctionWithName:constantValues:error:"(name: Id, values: Id, error: *mut Id) -> Id;
    }
    pipeline "MTLComputePipelineState" {
        fn max_total_threads_per_threadgroup "maxTotalThreadsPerThreadgroup"() -> usize;
        fn thread_execution_width "threadExecutionWidth"() -> usize;
        fn static_threadgroup_memory_length "staticThreadgroupMemoryLength"() -> usize;
    }
    queue "MTLCommandQueue" {
        fn command_buffer "commandBuffer"() -> Id;
        fn add_residency_set "addResidencySet:"(set: Id);
        fn remove_residency_set "removeResidencySet:"(set: Id);
    }
    command_buffer "MTLCommandBuffer" {
        fn compute_encoder "computeCommandEncoderWithDispatchType:"(kind: usize) -> Id;
        fn encode_signal_event "encodeSignalEvent:value:"(event: Id, value: u64);
        fn commit "commit"();
        fn wait_until_completed "waitUntilCompleted"();
        fn status "status"() -> usize;
        fn error "error"() -> Id;
        fn gpu_start_time "GPUStartTime"() -> f64;
        fn gpu_end_time "GPUEndTime"() -> f64;
    }
    encoder "MTLComputeCommandEncoder" {
        fn set_pipeline "setComputePipelineState:"(pipeline: Id);
        fn set_buffer "setBuffer:offset:atIndex:"(buffer: Id, offset: usize, index: usize);
        fn set_bytes "setBytes:length:atIndex:"(bytes: *const c_void, length: usize, index: usize);
        fn set_threadgroup_memory "setThreadgroupMemoryLength:atIndex:"(length: usize, index: usize);
        fn dispatch_threadgroups "dispatchThreadgroups:threadsPerThreadgroup:"(groups: Size, threads: Size);
        fn memory_barrier "memoryBarrierWithScope:"(scope: usize);
        fn use_resources "useResources:count:usage:"(resources: *const Id, count: usize, usage: usize);
        fn end_encoding "endEncoding"();
    }
    buffer "MTLBuffer" {
        fn contents "contents"() -> *mut c_void;
        fn length "length"() -> usize;
        fn gpu_address "gpuAddress"() -> u64;
    }
    shared_event "MTLSharedEvent" {
        fn signaled_value "signaledValue"() -> u64;
        fn wait_until_signaled "waitUntilSignaledValue:timeoutMS:"(value: u64, milliseconds: u64) -> bool;
    }
    residency_set "MTLResidencySet" {
        fn add_allocation "addAllocation:"(allocation: Id);
        fn remove_allocation "removeAllocation:"(allocation: Id);
        fn commit "commit"();
        fn request_residency "requestResidency"();
        fn end_residency "endResidency"();
        fn allocation_count "allocationCount"() -> usize;
    }
}
