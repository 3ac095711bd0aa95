//! Kernels that need no compiler.

use infall::backend::metal::sim::{Access, Kernels, Launch};

/// `n` (buffer 0, a uint) values each:
///
/// | name | buffers | does |
/// | --- | --- | --- |
/// | `copy` | x, y | y = x |
/// | `add_one` | y | y += 1 |
/// | `add` | x, y | y += x |
/// | `follow` | table, y | y = what the first address of the table leads to |
/// | `scratch` | y | y = 0, with threadgroup memory |
/// | `constant` | y | y = its function constant 0 |
/// | `faulty` | y | nothing but an error |
/// | `past` | x, y | reads past the end of x |
pub struct Plain;

impl Kernels for Plain {
    fn access(&self, kernel: &str) -> Option<Access> {
        let (buffers, threadgroup) = match kernel {
            "copy" | "add" | "follow" | "past" => ("crw", 0),
            "add_one" | "constant" | "faulty" => ("cw", 0),
            "scratch" => ("cw", 1),
            _ => return None,
        };
        Some(Access {
            buffers: buffers.to_string(),
            threadgroup,
        })
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), String> {
        // SAFETY: the tests set buffers of `n` values at least.
        unsafe {
            let n = launch.buffers[0].cast::<u32>().read() as usize;
            let [x, y] = [1, 2].map(|i| launch.buffers[i].cast::<f32>());
            match launch.kernel {
                "copy" => x.copy_to(y, n),
                "add_one" => (0..n).for_each(|i| *x.add(i) += 1.0),
                "add" => (0..n).for_each(|i| *y.add(i) += *x.add(i)),
                "follow" => x.cast::<*const f32>().read().copy_to(y, n),
                "scratch" => x.write_bytes(0, n),
                "constant" => (0..n).for_each(|i| *x.add(i) = launch.constants[0].1 as f32),
                "faulty" => return Err("lane 3 left before a barrier".to_string()),
                "past" => *y = x.add(n).read_volatile(),
                other => unreachable!("{other}"),
            }
        }
        Ok(())
    }
}
