//! FENCE: the Objective-C runtime.
//!
//! What it promises: an [`Owned`] holds one reference to a live object and gives it back; what a message returns
//! autoreleased is kept by a reference of its own; `objc_msgSend` is only ever called through `messages.rs`, with the
//! type of the method. It is never variadic: on arm64 such a call puts its arguments elsewhere.
//!
//! No value here may go to another thread. A thread that sends messages does so within [`autorelease_pool`].
#![allow(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::{PhantomData, PhantomPinned};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::messages;

/// Something that the runtime knows.
#[repr(C)]
pub struct Object {
    _opaque: (),
    _only_behind_pointers: PhantomData<(*mut u8, PhantomPinned)>,
}

/// An object, a class, or nil (null).
pub type Id = *mut Object;

/// The name of a message, as the runtime keeps it.
pub type Sel = *const c_void;

#[cfg_attr(target_os = "macos", link(name = "objc"))]
unsafe extern "C" {
    /// Never called with this type; see `messages.rs`.
    pub(super) fn objc_msgSend();
    fn objc_getClass(name: *const c_char) -> Id;
    fn sel_registerName(name: *const c_char) -> Sel;
    fn objc_retain(object: Id) -> Id;
    fn objc_release(object: Id);
    fn objc_autoreleasePoolPush() -> *mut c_void;
    fn objc_autoreleasePoolPop(pool: *mut c_void);
}

// A program without a window gets a device only when it is linked with CoreGraphics [Apple, on
// MTLCreateSystemDefaultDevice].
#[cfg_attr(target_os = "macos", link(name = "CoreGraphics", kind = "framework"))]
unsafe extern "C" {}

#[cfg_attr(target_os = "macos", link(name = "Metal", kind = "framework"))]
unsafe extern "C" {
    fn MTLCreateSystemDefaultDevice() -> Id;
}

// NSString and NSError are classes of Foundation.
#[cfg_attr(target_os = "macos", link(name = "Foundation", kind = "framework"))]
unsafe extern "C" {}

// Of libSystem, which every program of macOS has.
unsafe extern "C" {
    fn dispatch_data_create(
        bytes: *const c_void,
        len: usize,
        queue: *mut c_void,
        destructor: *const c_void,
    ) -> Id;
}

/// A selector that is looked up once.
pub(super) struct Selector {
    name: &'static CStr,
    known: AtomicPtr<c_void>,
}

impl Selector {
    pub(super) const fn new(name: &'static CStr) -> Selector {
        Selector {
            name,
            known: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    pub(super) fn get(&self) -> Sel {
        // Relaxed: the runtime gives every thread the same pointer, to something it never changes.
        let known = self.known.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name ends with a zero.
        let found = unsafe { sel_registerName(self.name.as_ptr()) };
        self.known.store(found.cast_mut(), Ordering::Relaxed);
        found
    }
}

/// A class that this system has.
#[derive(Clone, Copy)]
pub struct Class(NonNull<Object>);

impl Class {
    /// By name; `None` where the system is too old for it.
    pub fn named(name: &CStr) -> Option<Class> {
        // SAFETY: the name ends with a zero.
        NonNull::new(unsafe { objc_getClass(name.as_ptr()) }).map(Class)
    }

    /// As the receiver of a message.
    pub fn id(self) -> Id {
        self.0.as_ptr()
    }
}

/// One reference to a live object.
#[derive(Debug)]
pub struct Owned(NonNull<Object>);

impl Owned {
    /// The result of a message or function that gives a reference away (`new…`, `…Create…`); `None` for nil.
    ///
    /// # Safety
    ///
    /// `object` is nil, or a reference to it is the caller's to give.
    pub unsafe fn from_new(object: Id) -> Option<Owned> {
        NonNull::new(object).map(Owned)
    }

    /// The result of any other message: kept beyond the pool that holds it; `None` for nil.
    ///
    /// # Safety
    ///
    /// `object` is nil or alive.
    pub unsafe fn from_autoreleased(object: Id) -> Option<Owned> {
        // SAFETY: nil or alive, says the caller; the new reference is ours.
        NonNull::new(unsafe { objc_retain(object) }).map(Owned)
    }

    /// The object, alive as long as `self`.
    pub fn id(&self) -> Id {
        self.0.as_ptr()
    }
}

impl Clone for Owned {
    fn clone(&self) -> Owned {
        // SAFETY: our reference keeps the object alive; the new one is the clone's.
        unsafe { objc_retain(self.id()) };
        Owned(self.0)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and not used again.
        unsafe { objc_release(self.id()) }
    }
}

/// Runs `work` with a pool for what is autoreleased meanwhile, and empties it.
pub fn autorelease_pool<T>(work: impl FnOnce() -> T) -> T {
    struct Pool(*mut c_void);
    impl Drop for Pool {
        fn drop(&mut self) {
            // SAFETY: pushed below, on this thread; pools within it have ended with the calls that made them.
            unsafe { objc_autoreleasePoolPop(self.0) }
        }
    }
    // SAFETY: popped when `work` returns or unwinds.
    let _pool = Pool(unsafe { objc_autoreleasePoolPush() });
    work()
}

/// The Metal device of the system.
pub fn system_default_device() -> Option<Owned> {
    // SAFETY: takes nothing and gives a reference or nil.
    unsafe { Owned::from_new(MTLCreateSystemDefaultDevice()) }
}

/// A `dispatch_data_t` with a copy of `bytes`.
pub fn data(bytes: &[u8]) -> Option<Owned> {
    let (no_queue, copy) = (std::ptr::null_mut(), std::ptr::null());
    // SAFETY: `bytes` is readable during the call; without a destructor they are copied. Gives a reference.
    unsafe {
        let object = dispatch_data_create(bytes.as_ptr().cast(), bytes.len(), no_queue, copy);
        Owned::from_new(object)
    }
}

/// An NSString.
///
/// Errors: `Format` when the text holds a zero.
pub fn string(text: &str) -> Result<Owned> {
    let refused = || Error::format(format!("not the text of an NSString: {text:.40?}"));
    let text = CString::new(text).map_err(|_| refused())?;
    let class = Class::named(c"NSString").ok_or_else(|| missing("class NSString"))?;
    // SAFETY: the receiver is the class NSString, the text ends with a zero; the result is autoreleased.
    let object = unsafe {
        Owned::from_autoreleased(messages::string_class::from_utf8(class.id(), text.as_ptr()))
    };
    object.ok_or_else(refused)
}

/// The text of an NSString; empty for nil.
///
/// # Safety
///
/// `string` is nil or a live NSString.
pub unsafe fn text(string: Id) -> String {
    // SAFETY: nil (which answers null) or an NSString; the text lives as long as the string or the pool around it,
    // and is copied at once.
    unsafe {
        let utf8 = messages::string::utf8(string);
        if utf8.is_null() {
            return String::new();
        }
        CStr::from_ptr(utf8).to_string_lossy().into_owned()
    }
}

/// An error from an NSError, or from nil.
///
/// # Safety
///
/// `error` is nil or a live NSError.
pub unsafe fn error(what: &str, error: Id) -> Error {
    // SAFETY: nil (which answers nil) or an NSError.
    let text = unsafe { text(messages::error::localized_description(error)) };
    let text = if text.is_empty() {
        "no reason given"
    } else {
        text.trim_end()
    };
    Error::new(ErrorKind::Io, format!("Metal: {what}: {text}"))
}

/// The system lacks something.
pub fn missing(what: &str) -> Error {
    Error::unsupported(format!("Metal: this system has no {what}"))
}
