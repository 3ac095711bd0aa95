//! FENCE: Metal, one method a message.
//!
//! What it promises: every value owns a reference to a live object of its class, so a message finds its receiver; nil
//! becomes `None` or an error. Encoders end themselves. Rules of Metal that would otherwise end in undefined behaviour of
//! the device (indices, lengths, offsets) are asserted. What the kernels do with their buffers is not
//! known here.
//!
//! Call everything within [`autorelease_pool`].
#![allow(unsafe_code)]

pub use super::messages::Size;
pub use super::objc::autorelease_pool;

use super::messages;
use super::objc::{self, Class, Id, Owned, Selector};
use crate::error::{Error, ErrorKind, Result};
use std::ptr::{NonNull, null, null_mut};

/// Options of a buffer: storage and hazard tracking (MTLResourceOptions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Storage {
    /// Seen by the processor and the device; the device orders dispatches that touch it.
    SharedTracked = 0,
    /// Seen by both; dispatches that touch it are ordered by barriers and events of ours.
    SharedUntracked = 0x100,
}

/// The largest index of a buffer of a kernel.
pub const MAX_BUFFER_INDEX: usize = 30;

/// Bytes that [`Encoder::set_bytes`] takes at most.
pub const MAX_BYTES: usize = 4096;

/// MTLGPUFamilyApple7, the M1: the first with everything our kernels use.
pub const FAMILY_APPLE_7: isize = 1007;

/// A device (MTLDevice).
#[derive(Clone, Debug)]
pub struct Device(Owned);

// SAFETY: references are counted atomically, and devices may be used from any thread (Apple: Metal's threading rules).
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// The device of the system; `None` without one.
    pub fn system_default() -> Option<Device> {
        objc::system_default_device().map(Device)
    }

    /// Its name.
    pub fn name(&self) -> String {
        // SAFETY: the receiver is alive; the name is an NSString.
        unsafe { objc::text(messages::device::name(self.0.id())) }
    }

    /// Whether it has the features of a family (MTLGPUFamily).
    pub fn supports_family(&self, family: isize) -> bool {
        // SAFETY: the receiver is alive.
        unsafe { messages::device::supports_family(self.0.id(), family) }
    }

    /// Whether it shares the memory of the processor.
    pub fn has_unified_memory(&self) -> bool {
        // SAFETY: the receiver is alive.
        unsafe { messages::device::has_unified_memory(self.0.id()) }
    }

    /// Bytes of the largest buffer.
    pub fn max_buffer_length(&self) -> usize {
        // SAFETY: the receiver is alive.
        unsafe { messages::device::max_buffer_length(self.0.id()) }
    }

    /// Bytes that it can use without slowing down, about.
    pub fn recommended_max_working_set_size(&self) -> u64 {
        // SAFETY: the receiver is alive.
        unsafe { messages::device::recommended_max_working_set_size(self.0.id()) }
    }

    /// Bytes of all its resources.
    pub fn current_allocated_size(&self) -> usize {
        // SAFETY: the receiver is alive.
        unsafe { messages::device::current_allocated_size(self.0.id()) }
    }

    /// A queue; `None` when there are too many.
    pub fn new_queue(&self) -> Option<Queue> {
        // SAFETY: the receiver is alive; the result is ours.
        unsafe { Owned::from_new(messages::device::new_queue(self.0.id())) }.map(Queue)
    }

    /// A buffer of `len` bytes whose contents mean nothing; `None` when the device refuses it.
    pub fn new_buffer(&self, len: usize, storage: Storage) -> Option<Buffer> {
        if len == 0 || len > self.max_buffer_length() {
            return None;
        }
        // SAFETY: the receiver is alive, the length allowed; the result is ours.
        let buffer = unsafe {
            Owned::from_new(messages::device::new_buffer(
                self.0.id(),
                len,
                storage as usize,
            ))
        };
        buffer.and_then(Buffer::over)
    }

    /// A buffer over memory of the caller; `None` when the device refuses it.
    ///
    /// # Safety
    ///
    /// `bytes` starts at a page and `len` is a whole number of pages. The memory stays until the buffer and its clones are
    /// dropped and every command buffer that may touch it has completed.
    pub unsafe fn new_buffer_no_copy(
        &self,
        bytes: NonNull<u8>,
        len: usize,
        storage: Storage,
    ) -> Option<Buffer> {
        if len == 0 || len > self.max_buffer_length() {
            return None;
        }
        // SAFETY: the receiver is alive; pages that stay, says the caller; without a deallocator they remain the caller's.
        // The result is ours.
        let buffer = unsafe {
            Owned::from_new(messages::device::new_buffer_no_copy(
                self.0.id(),
                bytes.as_ptr().cast(),
                len,
                storage as usize,
                null(),
            ))
        };
        buffer.and_then(Buffer::over)
    }

    /// The library of a compiled `.metallib`.
    ///
    /// Errors: `Io` when the device does not take it.
    pub fn library_from_data(&self, metallib: &[u8]) -> Result<Library> {
        let data = objc::data(metallib).ok_or_else(|| objc::missing("memory for a library"))?;
        let mut error: Id = null_mut();
        // SAFETY: the receiver and the data are alive; the result is ours, the error is autoreleased.
        unsafe {
            let library =
                messages::device::new_library_with_data(self.0.id(), data.id(), &mut error);
            Owned::from_new(library)
                .map(Library)
                .ok_or_else(|| objc::error("the compiled kernels", error))
        }
    }

    /// Compiles a source text, without `#include`, as Metal `version` (3.1 is `(3, 1)`), with exact arithmetic.
    ///
    /// Errors: `Io` with the compiler's messages.
    pub fn library_from_source(&self, source: &str, version: (usize, usize)) -> Result<Library> {
        let source = objc::string(source)?;
        let options = exact_options(version)?;
        let mut error: Id = null_mut();
        // SAFETY: the receiver and the arguments are alive; the result is ours, the error is autoreleased.
        unsafe {
            let library = messages::device::new_library_with_source(
                self.0.id(),
                source.id(),
                options.id(),
                &mut error,
            );
            Owned::from_new(library)
                .map(Library)
                .ok_or_else(|| objc::error("the source of the kernels", error))
        }
    }

    /// What runs a kernel.
    ///
    /// Errors: `Io` when the kernel does not compile for this device.
    pub fn pipeline(&self, function: &Function) -> Result<Pipeline> {
        let mut error: Id = null_mut();
        // SAFETY: the receiver and the function are alive; the result is ours, the error is autoreleased.
        unsafe {
            let pipeline = messages::device::new_pipeline(self.0.id(), function.0.id(), &mut error);
            Owned::from_new(pipeline)
                .map(Pipeline)
                .ok_or_else(|| objc::error("pipeline", error))
        }
    }

    /// An event that the processor can wait for; its value is 0.
    pub fn new_shared_event(&self) -> Option<SharedEvent> {
        // SAFETY: the receiver is alive; the result is ours.
        unsafe { Owned::from_new(messages::device::new_shared_event(self.0.id())) }.map(SharedEvent)
    }

    /// An empty residency set; `None` below macOS 15, which has none.
    ///
    /// Errors: `Io` when the device refuses it.
    pub fn new_residency_set(&self) -> Result<Option<ResidencySet>> {
        let Some(class) = Class::named(c"MTLResidencySetDescriptor") else {
            return Ok(None);
        };
        let descriptor = new(class)?;
        let mut error: Id = null_mut();
        // SAFETY: the receiver and the descriptor are alive; the result is ours, the error is autoreleased.
        unsafe {
            let set = messages::device::new_residency_set(self.0.id(), descriptor.id(), &mut error);
            Owned::from_new(set)
                .map(|set| Some(ResidencySet(set)))
                .ok_or_else(|| objc::error("residency set", error))
        }
    }
}

fn new(class: Class) -> Result<Owned> {
    // SAFETY: the receiver is a class; the result is ours.
    unsafe { Owned::from_new(messages::object_class::new(class.id())) }
        .ok_or_else(|| Error::new(ErrorKind::Limit, "Metal: no memory for an object"))
}

/// Options of the compiler: no reordering of sums, no approximate functions.
fn exact_options((major, minor): (usize, usize)) -> Result<Owned> {
    // MTLMathModeSafe and MTLMathFloatingPointFunctionsPrecise.
    const SAFE: isize = 0;
    const PRECISE: isize = 1;
    static SET_MATH_MODE: Selector = Selector::new(c"setMathMode:");
    let class = Class::named(c"MTLCompileOptions")
        .ok_or_else(|| objc::missing("class MTLCompileOptions"))?;
    let options = new(class)?;
    let id = options.id();
    // SAFETY: the receiver is a live MTLCompileOptions, and before macOS 15 is not sent what it does not know.
    unsafe {
        messages::compile_options::set_language_version(id, (major << 16) + minor);
        if messages::object::responds_to(id, SET_MATH_MODE.get()) {
            messages::compile_options::set_math_mode(id, SAFE);
            messages::compile_options::set_math_functions(id, PRECISE);
        } else {
            messages::compile_options::set_fast_math(id, false);
        }
    }
    Ok(options)
}

/// Compiled kernels (MTLLibrary).
#[derive(Clone, Debug)]
pub struct Library(Owned);

impl Library {
    /// The kernel `name` with its function constants 0, 1, ..., all `uint`.
    ///
    /// Errors: `Io` when there is no such kernel, or it needs other constants.
    pub fn function(&self, name: &str, constants: &[u32]) -> Result<Function> {
        const UINT: usize = 33; // MTLDataTypeUInt
        let class = Class::named(c"MTLFunctionConstantValues")
            .ok_or_else(|| objc::missing("class MTLFunctionConstantValues"))?;
        let values = new(class)?;
        for (index, value) in constants.iter().enumerate() {
            let value: *const u32 = value;
            // SAFETY: the receiver is a live MTLFunctionConstantValues, which copies the value.
            unsafe { messages::constant_values::set(values.id(), value.cast(), UINT, index) }
        }
        let string = objc::string(name)?;
        let mut error: Id = null_mut();
        // SAFETY: the receiver and the arguments are alive; the result is ours, the error is autoreleased.
        unsafe {
            let function =
                messages::library::new_function(self.0.id(), string.id(), values.id(), &mut error);
            Owned::from_new(function)
                .map(Function)
                .ok_or_else(|| objc::error(&format!("kernel {name}"), error))
        }
    }
}

/// A kernel with its constants (MTLFunction).
#[derive(Clone, Debug)]
pub struct Function(Owned);

/// A kernel made for the device (MTLComputePipelineState).
#[derive(Clone, Debug)]
pub struct Pipeline(Owned);

impl Pipeline {
    /// Threads that a group may have.
    pub fn max_total_threads_per_threadgroup(&self) -> usize {
        // SAFETY: the receiver is alive.
        unsafe { messages::pipeline::max_total_threads_per_threadgroup(self.0.id()) }
    }

    /// Threads of a simdgroup.
    pub fn thread_execution_width(&self) -> usize {
        // SAFETY: the receiver is alive.
        unsafe { messages::pipeline::thread_execution_width(self.0.id()) }
    }

    /// Bytes of threadgroup memory that the kernel declares itself.
    pub fn static_threadgroup_memory_length(&self) -> usize {
        // SAFETY: the receiver is alive.
        unsafe { messages::pipeline::static_threadgroup_memory_length(self.0.id()) }
    }
}

/// A queue of command buffers, done in the order of their commits (MTLCommandQueue).
#[derive(Clone, Debug)]
pub struct Queue(Owned);

impl Queue {
    /// A new command buffer, which keeps what is encoded into it alive; `None` when the device refuses it.
    pub fn command_buffer(&self) -> Option<CommandBuffer> {
        // SAFETY: the receiver is alive; the result is autoreleased.
        unsafe { Owned::from_autoreleased(messages::queue::command_buffer(self.0.id())) }
            .map(CommandBuffer)
    }

    /// Makes the memory of `set` resident for all command buffers committed from now on.
    pub fn add_residency_set(&self, set: &ResidencySet) {
        // SAFETY: the receiver and the set are alive; the queue keeps the set.
        unsafe { messages::queue::add_residency_set(self.0.id(), set.0.id()) }
    }

    /// Undoes [`Queue::add_residency_set`].
    pub fn remove_residency_set(&self, set: &ResidencySet) {
        // SAFETY: the receiver and the set are alive.
        unsafe { messages::queue::remove_residency_set(self.0.id(), set.0.id()) }
    }
}

/// How far a command buffer is (MTLCommandBufferStatus).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not yet committed.
    Open,
    /// Committed, not yet done.
    Running,
    /// Done.
    Completed,
    /// Failed; see [`CommandBuffer::error`].
    Failed,
}

/// Work for the device (MTLCommandBuffer).
#[derive(Clone, Debug)]
pub struct CommandBuffer(Owned);

impl CommandBuffer {
    /// An encoder of dispatches; the one before it must have ended. Those of a `concurrent` one are in no order but that of
    /// barriers. `None` when the device refuses it.
    pub fn compute_encoder(&self, concurrent: bool) -> Option<Encoder> {
        // SAFETY: the receiver is alive; the result is autoreleased. 0 is serial, 1 concurrent.
        let encoder = unsafe {
            Owned::from_autoreleased(messages::command_buffer::compute_encoder(
                self.0.id(),
                usize::from(concurrent),
            ))
        };
        encoder.map(Encoder)
    }

    /// Sets the event's value once all work encoded before is done. No encoder may be open.
    pub fn encode_signal_event(&self, event: &SharedEvent, value: u64) {
        // SAFETY: the receiver and the event are alive.
        unsafe { messages::command_buffer::encode_signal_event(self.0.id(), event.0.id(), value) }
    }

    /// Gives the work to the device, once; its encoders must have ended.
    pub fn commit(&self) {
        // SAFETY: the receiver is alive.
        unsafe { messages::command_buffer::commit(self.0.id()) }
    }

    /// Waits until the work is done or has failed; it must have been committed.
    pub fn wait_until_completed(&self) {
        // SAFETY: the receiver is alive.
        unsafe { messages::command_buffer::wait_until_completed(self.0.id()) }
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        // SAFETY: the receiver is alive.
        match unsafe { messages::command_buffer::status(self.0.id()) } {
            0 | 1 => Status::Open, // not enqueued, enqueued
            4 => Status::Completed,
            5 => Status::Failed,
            _ => Status::Running, // committed, scheduled
        }
    }

    /// Why it failed.
    pub fn error(&self) -> Error {
        // SAFETY: the receiver is alive; the error is an NSError or nil.
        unsafe {
            objc::error(
                "command buffer",
                messages::command_buffer::error(self.0.id()),
            )
        }
    }

    /// When the device began and ended, in seconds, on one clock; 0 until it is done.
    pub fn gpu_times(&self) -> (f64, f64) {
        // SAFETY: the receiver is alive.
        unsafe {
            (
                messages::command_buffer::gpu_start_time(self.0.id()),
                messages::command_buffer::gpu_end_time(self.0.id()),
            )
        }
    }
}

/// Takes dispatches until it is dropped (MTLComputeCommandEncoder).
#[derive(Debug)]
pub struct Encoder(Owned);

impl Encoder {
    /// The kernel of the dispatches that follow.
    pub fn set_pipeline(&self, pipeline: &Pipeline) {
        // SAFETY: the receiver and the pipeline are alive.
        unsafe { messages::encoder::set_pipeline(self.0.id(), pipeline.0.id()) }
    }

    /// The kernel's buffer `index`, from byte `offset` on, which is a multiple of the alignment of what the kernel reads.
    pub fn set_buffer(&self, index: usize, buffer: &Buffer, offset: usize) {
        assert!(index <= MAX_BUFFER_INDEX && offset < buffer.len());
        // SAFETY: the receiver and the buffer are alive; index and offset are within bounds.
        unsafe { messages::encoder::set_buffer(self.0.id(), buffer.object.id(), offset, index) }
    }

    /// A copy of some bytes, at most [`MAX_BYTES`], as the kernel's buffer `index`.
    pub fn set_bytes(&self, index: usize, bytes: &[u8]) {
        assert!(index <= MAX_BUFFER_INDEX && !bytes.is_empty() && bytes.len() <= MAX_BYTES);
        let start = bytes.as_ptr().cast();
        // SAFETY: the receiver is alive and copies the bytes; index and length are within bounds.
        unsafe { messages::encoder::set_bytes(self.0.id(), start, bytes.len(), index) }
    }

    /// Bytes of the kernel's threadgroup memory `index`, a multiple of 16.
    pub fn set_threadgroup_memory(&self, index: usize, len: usize) {
        assert!(index <= MAX_BUFFER_INDEX && len.is_multiple_of(16));
        // SAFETY: the receiver is alive; the length is a multiple of 16.
        unsafe { messages::encoder::set_threadgroup_memory(self.0.id(), len, index) }
    }

    /// Runs the kernel. Every buffer it uses is set; a group has at most the threads that the pipeline allows.
    pub fn dispatch_threadgroups(&self, groups: Size, threads: Size) {
        // SAFETY: the receiver is alive.
        unsafe { messages::encoder::dispatch_threadgroups(self.0.id(), groups, threads) }
    }

    /// Dispatches after this see what those before it wrote into buffers, and start after them.
    pub fn memory_barrier_buffers(&self) {
        const BUFFERS: usize = 1; // MTLBarrierScopeBuffers
        // SAFETY: the receiver is alive.
        unsafe { messages::encoder::memory_barrier(self.0.id(), BUFFERS) }
    }

    /// The dispatches that follow read these buffers through addresses: where no residency set holds them.
    pub fn use_resources(&self, buffers: &[&Buffer]) {
        const READ: usize = 1; // MTLResourceUsageRead
        let ids: Vec<Id> = buffers.iter().map(|buffer| buffer.object.id()).collect();
        if ids.is_empty() {
            return;
        }
        // SAFETY: the receiver and the buffers are alive, and their ids are readable during the call.
        unsafe { messages::encoder::use_resources(self.0.id(), ids.as_ptr(), ids.len(), READ) }
    }

    /// Ends it.
    pub fn end_encoding(self) {}
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: the receiver is alive, and only here is it ended.
        unsafe { messages::encoder::end_encoding(self.0.id()) }
    }
}

/// Memory that the processor and the device see (MTLBuffer).
#[derive(Clone, Debug)]
pub struct Buffer {
    object: Owned,
    contents: NonNull<u8>,
    len: usize,
}

// SAFETY: references are counted atomically; length and addresses never change, and contents are reached through a pointer.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn over(object: Owned) -> Option<Buffer> {
        // SAFETY: the receiver is alive. Contents and length never change.
        let (contents, len) = unsafe {
            (
                messages::buffer::contents(object.id()),
                messages::buffer::length(object.id()),
            )
        };
        let contents = NonNull::new(contents.cast())?;
        Some(Buffer {
            object,
            contents,
            len,
        })
    }

    /// Its first byte; there as long as the buffer. Who reads or writes it sees to it that the device does not meanwhile.
    pub fn contents(&self) -> NonNull<u8> {
        self.contents
    }

    /// Copies bytes to byte `at` on. The device must not work on them.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at <= self.len && bytes.len() <= self.len - at);
        // SAFETY: the bytes lie in the buffer, which no slice of the caller can be a part of.
        unsafe {
            let to = self.contents.as_ptr().add(at);
            to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: the device makes no such buffer.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of its first byte on the device.
    pub fn gpu_address(&self) -> u64 {
        // SAFETY: the receiver is alive.
        unsafe { messages::buffer::gpu_address(self.object.id()) }
    }
}

/// A number that the device raises and the processor waits for (MTLSharedEvent).
#[derive(Clone, Debug)]
pub struct SharedEvent(Owned);

impl SharedEvent {
    /// The number.
    pub fn signaled_value(&self) -> u64 {
        // SAFETY: the receiver is alive.
        unsafe { messages::shared_event::signaled_value(self.0.id()) }
    }

    /// Waits until the number is `value` or more; false when that took longer than the time allowed, in milliseconds.
    pub fn wait_until_signaled(&self, value: u64, timeout_ms: u64) -> bool {
        // SAFETY: the receiver is alive.
        unsafe { messages::shared_event::wait_until_signaled(self.0.id(), value, timeout_ms) }
    }
}

/// Buffers that the device can reach in all command buffers of a queue (MTLResidencySet). It does not keep them alive.
#[derive(Clone, Debug)]
pub struct ResidencySet(Owned);

// SAFETY: references are counted atomically; who has the value to himself may use it on any thread.
unsafe impl Send for ResidencySet {}

impl ResidencySet {
    /// Adds a buffer with the next [`ResidencySet::commit`].
    pub fn add_allocation(&self, buffer: &Buffer) {
        // SAFETY: the receiver and the buffer are alive.
        unsafe { messages::residency_set::add_allocation(self.0.id(), buffer.object.id()) }
    }

    /// Removes a buffer with the next [`ResidencySet::commit`]; the work that uses it must be done by then.
    pub fn remove_allocation(&self, buffer: &Buffer) {
        // SAFETY: the receiver and the buffer are alive.
        unsafe { messages::residency_set::remove_allocation(self.0.id(), buffer.object.id()) }
    }

    /// Adds and removes what was asked for.
    pub fn commit(&self) {
        // SAFETY: the receiver is alive.
        unsafe { messages::residency_set::commit(self.0.id()) }
    }

    /// Makes its buffers resident now, or in part later.
    pub fn request_residency(&self) {
        // SAFETY: the receiver is alive.
        unsafe { messages::residency_set::request_residency(self.0.id()) }
    }

    /// Undoes [`ResidencySet::request_residency`].
    pub fn end_residency(&self) {
        // SAFETY: the receiver is alive.
        unsafe { messages::residency_set::end_residency(self.0.id()) }
    }

    /// Buffers, those included that wait for a commit.
    pub fn allocation_count(&self) -> usize {
        // SAFETY: the receiver is alive.
        unsafe { messages::residency_set::allocation_count(self.0.id()) }
    }
}
