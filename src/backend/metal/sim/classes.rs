//! The classes: name, and the methods with the types that Apple's headers give them, encoded as the runtime does.
//! `tests/metal` holds them against the list of selectors.

use super::{commands, device, encoders, foundation, memory};

/// The code of a method.
#[derive(Clone, Copy)]
pub(super) struct Imp(pub(super) *const ());

// SAFETY: the address of a function, which is the same for every thread.
unsafe impl Sync for Imp {}

/// A method.
pub(super) struct Method {
    pub(super) selector: &'static str,
    pub(super) types: &'static str,
    pub(super) imp: Imp,
    /// Whether it came with macOS 15.
    pub(super) macos_15: bool,
}

/// A class, or with `+` in front the object that stands for a class.
pub(super) struct Class {
    pub(super) name: &'static str,
    pub(super) methods: &'static [Method],
    /// Whether it came with macOS 15.
    pub(super) macos_15: bool,
}

impl Class {
    pub(super) const fn new(name: &'static str, methods: &'static [Method]) -> Class {
        Class {
            name,
            methods,
            macos_15: false,
        }
    }

    pub(super) const fn macos_15(self) -> Class {
        Class {
            macos_15: true,
            ..self
        }
    }

    pub(super) fn method(&self, selector: &str) -> Option<&'static Method> {
        self.methods.iter().find(|m| m.selector == selector)
    }
}

impl Method {
    pub(super) const fn new(selector: &'static str, types: &'static str, imp: *const ()) -> Method {
        Method {
            selector,
            types,
            imp: Imp(imp),
            macos_15: false,
        }
    }

    pub(super) const fn macos_15(self) -> Method {
        Method {
            macos_15: true,
            ..self
        }
    }
}

/// All classes.
pub(super) static ALL: &[&Class] = &[
    &foundation::OBJECT,
    &foundation::STRING_CLASS,
    &foundation::STRING,
    &foundation::ERROR,
    &foundation::DATA,
    &device::DEVICE,
    &device::OPTIONS_CLASS,
    &device::OPTIONS,
    &device::CONSTANTS_CLASS,
    &device::CONSTANTS,
    &device::LIBRARY,
    &device::FUNCTION,
    &device::PIPELINE,
    &commands::QUEUE,
    &commands::COMMAND_BUFFER,
    &commands::EVENT,
    &encoders::ENCODER,
    &memory::BUFFER,
    &memory::SET_DESCRIPTOR_CLASS,
    &memory::SET_DESCRIPTOR,
    &memory::SET,
];
