//! The Objective-C runtime: messages, references, pools.

use super::classes::{self, Class, Imp};
use super::{Key, Object, State, WORLD, World, fatal, foundation, known, lock};
use crate::backend::metal::objc::{Id, Sel};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Arc, Mutex};

/// The device that each object belongs to; objects stay here after their end.
static OBJECTS: Mutex<Option<HashMap<Key, Arc<World>>>> = Mutex::new(None);

/// Names of selectors; the address of one is its selector.
static SELECTORS: Mutex<Option<HashSet<&'static CStr>>> = Mutex::new(None);

thread_local! {
    /// What is to be released, by pool.
    static POOLS: RefCell<Vec<Vec<Key>>> = const { RefCell::new(Vec::new()) };
}

/// The device of an object.
pub(super) fn world_of(object: Id) -> Option<Arc<World>> {
    let objects = lock(&OBJECTS);
    objects.as_ref()?.get(&object.addr()).cloned()
}

/// Does something with the state of the device that the receiver of a message belongs to; `lookup` found it alive.
pub(super) fn with<T>(receiver: Id, work: impl FnOnce(&mut State) -> T) -> T {
    let Some(world) = world_of(receiver) else {
        fatal(&format!("{receiver:?} is no object"));
    };
    WORLD.set(Arc::clone(&world));
    work(&mut lock(&world))
}

/// Does something with the state of the device of this thread.
pub(super) fn with_own<T>(work: impl FnOnce(&mut State) -> T) -> T {
    let world = WORLD.with_borrow(Arc::clone);
    work(&mut lock(&world))
}

impl State {
    /// A new object with one owner.
    pub(super) fn make(&mut self, class: &'static Class) -> Key {
        // An address of its own for ever: what is sent to a dead object is then known as such.
        let key = Box::leak(Box::new(0u64)) as *mut u64 as Key;
        let mut objects = lock(&OBJECTS);
        let objects = objects.get_or_insert_default();
        objects.insert(key, known(self.world.upgrade()));
        self.objects.insert(
            key,
            Object {
                class,
                owners: 1,
                held: 0,
            },
        );
        key
    }

    /// Leaves the only reference to a new object to the innermost pool.
    pub(super) fn autorelease(&mut self, key: Key) -> Id {
        let pooled = POOLS.with_borrow_mut(|pools| match pools.last_mut() {
            Some(pool) => {
                pool.push(key);
                true
            }
            None => false,
        });
        if !pooled {
            let class = self.class_of(key);
            self.breach(format!(
                "a {class} is autoreleased on a thread without a pool: it would never be released"
            ));
        }
        id(key)
    }

    /// The driver autoreleases objects of its own in some calls (seen).
    pub(super) fn needs_pool(&mut self, message: &str) {
        if POOLS.with_borrow(Vec::is_empty) {
            self.breach(format!(
                "{message} on a thread without a pool: what the driver autoreleases would never be released"
            ));
        }
    }

    pub(super) fn class_of(&self, key: Key) -> &'static str {
        self.objects
            .get(&key)
            .map_or("unknown object", |object| object.class.name)
    }

    /// The key of an argument that must be a live object of a class.
    pub(super) fn argument(&mut self, message: &str, object: Id, class: &Class) -> Option<Key> {
        let key = object.addr();
        let fault = match self.objects.get(&key) {
            None if object.is_null() => "is nil".to_string(),
            None => "is no object of this device".to_string(),
            Some(found) if !std::ptr::eq(found.class, class) => {
                format!("is a {}", found.class.name)
            }
            Some(found) if found.owners == 0 => "is deallocated".to_string(),
            Some(_) => return Some(key),
        };
        self.breach(format!(
            "{message}: an argument {fault}, expected a {}",
            class.name
        ));
        None
    }

    pub(super) fn retain(&mut self, key: Key) {
        let Some(object) = self.objects.get_mut(&key) else {
            return;
        };
        if object.owners == 0 {
            let class = object.class.name;
            return self.breach(format!("retain of a deallocated {class}"));
        }
        object.owners += 1;
    }

    pub(super) fn release(&mut self, key: Key) {
        let Some(object) = self.objects.get_mut(&key) else {
            return;
        };
        if object.owners == 0 {
            let class = object.class.name;
            return self.breach(format!("over-release of a {class}"));
        }
        object.owners -= 1;
        if object.owners > 0 {
            return;
        }
        if object.held > 0 {
            self.last_owner_left(key);
        } else {
            self.dealloc(key);
        }
    }

    /// The device keeps an object alive.
    pub(super) fn hold(&mut self, key: Key) {
        if let Some(object) = self.objects.get_mut(&key) {
            object.held += 1;
        }
    }

    /// The device no longer does.
    pub(super) fn unhold(&mut self, key: Key) {
        let Some(object) = self.objects.get_mut(&key) else {
            return;
        };
        object.held -= 1;
        if object.held == 0 && object.owners == 0 {
            self.dealloc(key);
        }
    }

    /// Ends an object without references.
    fn dealloc(&mut self, key: Key) {
        self.dealloc_buffer(key);
        self.dealloc_set(key);
        self.dealloc_encoder(key);
        self.dealloc_command_buffer(key);
        self.dealloc_queue(key);
        self.strings.remove(&key);
        self.errors.remove(&key);
        self.data.remove(&key);
        self.options.remove(&key);
        self.constants.remove(&key);
        self.libraries.remove(&key);
        self.functions.remove(&key);
        self.pipelines.remove(&key);
        self.events.remove(&key);
    }
}

/// The object at a key.
pub(super) fn id(key: Key) -> Id {
    std::ptr::with_exposed_provenance_mut(key)
}

#[unsafe(no_mangle)]
extern "C" fn sel_registerName(name: *const c_char) -> Sel {
    // SAFETY: the caller's string ends with a zero.
    let name = unsafe { CStr::from_ptr(name) };
    let mut selectors = lock(&SELECTORS);
    let selectors = selectors.get_or_insert_default();
    let known = match selectors.get(name) {
        Some(known) => known,
        None => {
            let name: &'static CStr = Box::leak(CString::from(name).into_boxed_c_str());
            selectors.insert(name);
            name
        }
    };
    known.as_ptr().cast()
}

/// The name of a selector, `None` when it was never registered.
pub(super) fn selector_name(selector: Sel) -> Option<&'static str> {
    let selectors = lock(&SELECTORS);
    let mut known = selectors.as_ref()?.iter();
    let name = known.find(|name| name.as_ptr().addr() == selector.addr())?;
    name.to_str().ok()
}

#[unsafe(no_mangle)]
extern "C" fn objc_getClass(name: *const c_char) -> Id {
    // SAFETY: the caller's string ends with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let macos_15 = with_own(|s| s.limits.macos_15);
    let found = classes::ALL.iter().find(|class| {
        class.name.strip_prefix('+').map(str::as_bytes) == Some(name)
            && (macos_15 || !class.macos_15)
    });
    match found {
        Some(class) => std::ptr::from_ref::<Class>(class).cast_mut().cast(),
        None => std::ptr::null_mut(),
    }
}

/// The class that an address is; its messages start with `+`.
fn as_class(object: Id) -> Option<&'static Class> {
    let mut classes = classes::ALL.iter().copied();
    classes.find(|class| {
        std::ptr::from_ref(*class).addr() == object.addr() && class.name.starts_with('+')
    })
}

#[unsafe(no_mangle)]
extern "C" fn objc_retain(object: Id) -> Id {
    if !object.is_null() && as_class(object).is_none() {
        with(object, |s| s.retain(object.addr()));
    }
    object
}

#[unsafe(no_mangle)]
extern "C" fn objc_release(object: Id) {
    if !object.is_null() && as_class(object).is_none() {
        with(object, |s| s.release(object.addr()));
    }
}

#[unsafe(no_mangle)]
extern "C" fn objc_autoreleasePoolPush() -> *mut c_void {
    let depth = POOLS.with_borrow_mut(|pools| {
        pools.push(Vec::new());
        pools.len()
    });
    std::ptr::without_provenance_mut(depth)
}

#[unsafe(no_mangle)]
extern "C" fn objc_autoreleasePoolPop(pool: *mut c_void) {
    let depth = POOLS.with_borrow(Vec::len);
    if depth != pool.addr() {
        // Apple's runtime empties the inner pools as well, or ends the program (Apple).
        with_own(|s| {
            s.breach(format!(
                "pools popped out of order: pool {} while {depth} is the innermost",
                pool.addr()
            ));
        });
    }
    let depth = pool.addr().saturating_sub(1);
    let released: Vec<Key> = POOLS.with_borrow_mut(|pools| {
        let depth = depth.min(pools.len());
        pools.drain(depth..).flatten().collect()
    });
    for key in released {
        objc_release(id(key));
    }
}

/// Answers what cannot be answered, where breaches are recorded: zero.
extern "C" fn nothing() -> usize {
    0
}

/// The method for a message to something that is not nil.
extern "C" fn lookup(receiver: Id, selector: Sel) -> *const () {
    let nothing = nothing as *const ();
    let Some(name) = selector_name(selector) else {
        fatal(&format!("{selector:?} is no selector"));
    };
    let find = |class: &'static Class, macos_15: bool| -> Option<Imp> {
        let method = class
            .method(name)
            .or_else(|| foundation::OBJECT.method(name))?;
        (macos_15 || !method.macos_15).then_some(method.imp)
    };
    if let Some(class) = as_class(receiver) {
        return with_own(|s| match find(class, s.limits.macos_15) {
            Some(imp) => imp.0,
            None => {
                s.breach(format!("{} has no method {name}", class.name));
                nothing
            }
        });
    }
    let Some(world) = world_of(receiver) else {
        fatal(&format!("{name} sent to {receiver:?}, which is no object"));
    };
    let mut state = lock(&world);
    let Some(object) = state.objects.get(&receiver.addr()) else {
        fatal(&format!("{name} sent to {receiver:?}, which is no object"));
    };
    let (class, owners) = (object.class, object.owners);
    if owners == 0 {
        state.breach(format!("{name} sent to a deallocated {}", class.name));
        return nothing;
    }
    match find(class, state.limits.macos_15) {
        Some(imp) => imp.0,
        None => {
            state.breach(format!("a {} has no method {name}", class.name));
            nothing
        }
    }
}

// Nil answers zero, in every register that may hold a result (Apple). Else the registers that may hold arguments are kept
// over the search, and the method is jumped to, so that arguments on the stack stay where it expects them.
std::arch::global_asm!(
    "
    .globl objc_msgSend
objc_msgSend:
    testq %rdi, %rdi
    jz 2f
    pushq %rbp
    movq %rsp, %rbp
    subq $192, %rsp
    movq %rdi, (%rsp)
    movq %rsi, 8(%rsp)
    movq %rdx, 16(%rsp)
    movq %rcx, 24(%rsp)
    movq %r8, 32(%rsp)
    movq %r9, 40(%rsp)
    movq %rax, 48(%rsp)
    movups %xmm0, 64(%rsp)
    movups %xmm1, 80(%rsp)
    movups %xmm2, 96(%rsp)
    movups %xmm3, 112(%rsp)
    movups %xmm4, 128(%rsp)
    movups %xmm5, 144(%rsp)
    movups %xmm6, 160(%rsp)
    movups %xmm7, 176(%rsp)
    call {lookup}
    movq %rax, %r11
    movq (%rsp), %rdi
    movq 8(%rsp), %rsi
    movq 16(%rsp), %rdx
    movq 24(%rsp), %rcx
    movq 32(%rsp), %r8
    movq 40(%rsp), %r9
    movq 48(%rsp), %rax
    movups 64(%rsp), %xmm0
    movups 80(%rsp), %xmm1
    movups 96(%rsp), %xmm2
    movups 112(%rsp), %xmm3
    movups 128(%rsp), %xmm4
    movups 144(%rsp), %xmm5
    movups 160(%rsp), %xmm6
    movups 176(%rsp), %xmm7
    leave
    jmpq *%r11
2:  xorl %eax, %eax
    xorl %edx, %edx
    xorps %xmm0, %xmm0
    xorps %xmm1, %xmm1
    ret
",
    lookup = sym lookup,
    options(att_syntax)
);
