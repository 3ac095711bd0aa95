//! NSObject, NSString, NSError and the data of libdispatch.

use super::classes::{Class, Method};
use super::runtime::{id, selector_name, with, with_own};
use super::{State, known};
use crate::backend::metal::objc::{Id, Sel};
use std::ffi::{CStr, CString, c_char, c_void};

pub(super) static OBJECT: Class = Class::new(
    "NSObject",
    &[Method::new(
        "respondsToSelector:",
        "B@::",
        responds_to as *const (),
    )],
);
pub(super) static STRING_CLASS: Class = Class::new(
    "+NSString",
    &[Method::new(
        "stringWithUTF8String:",
        "@@:*",
        string_with_utf8 as *const (),
    )],
);
pub(super) static STRING: Class = Class::new(
    "NSString",
    &[Method::new("UTF8String", "*@:", utf8 as *const ())],
);
pub(super) static ERROR: Class = Class::new(
    "NSError",
    &[Method::new(
        "localizedDescription",
        "@@:",
        localized_description as *const (),
    )],
);
pub(super) static DATA: Class = Class::new("dispatch_data", &[]);

impl State {
    /// An autoreleased NSString.
    pub(super) fn string(&mut self, text: &str) -> Id {
        let key = self.make(&STRING);
        let text = CString::new(text.replace('\0', " "));
        self.strings.insert(key, known(text.ok()));
        self.autorelease(key)
    }

    /// An autoreleased NSError.
    pub(super) fn error(&mut self, text: &str) -> Id {
        let key = self.make(&ERROR);
        self.errors.insert(key, text.to_string());
        self.autorelease(key)
    }

    /// Answers nil, with an error where the caller has a place for one.
    pub(super) fn refuse(&mut self, text: &str, error: *mut Id) -> Id {
        let object = self.error(text);
        if !error.is_null() {
            // SAFETY: the caller gives the address of an id.
            unsafe { *error = object }
        }
        std::ptr::null_mut()
    }
}

extern "C" fn responds_to(this: Id, _: Sel, selector: Sel) -> bool {
    with(this, |s| {
        let object = known(s.objects.get(&this.addr()));
        let method = selector_name(selector).and_then(|name| object.class.method(name));
        method.is_some_and(|m| s.limits.macos_15 || !m.macos_15)
    })
}

extern "C" fn string_with_utf8(_: Id, _: Sel, text: *const c_char) -> Id {
    if text.is_null() {
        with_own(|s| s.breach("stringWithUTF8String: got no text (Apple)"));
        return std::ptr::null_mut();
    }
    // SAFETY: the caller's text ends with a zero.
    match unsafe { CStr::from_ptr(text) }.to_str() {
        Ok(text) => with_own(|s| s.string(text)),
        Err(_) => std::ptr::null_mut(),
    }
}

extern "C" fn utf8(this: Id, _: Sel) -> *const c_char {
    with(this, |s| known(s.strings.get(&this.addr())).as_ptr())
}

extern "C" fn localized_description(this: Id, _: Sel) -> Id {
    with(this, |s| {
        let text = known(s.errors.get(&this.addr())).clone();
        s.string(&text)
    })
}

#[unsafe(no_mangle)]
extern "C" fn dispatch_data_create(
    bytes: *const u8,
    len: usize,
    queue: *mut c_void,
    destructor: *const c_void,
) -> Id {
    with_own(|s| {
        if !queue.is_null() || !destructor.is_null() {
            s.breach("dispatch_data_create: only without queue and destructor (which copies) here");
            return std::ptr::null_mut();
        }
        // SAFETY: the caller gives readable bytes.
        let data = unsafe { std::slice::from_raw_parts(bytes, len) }.to_vec();
        let key = s.make(&DATA);
        s.data.insert(key, data);
        id(key)
    })
}
