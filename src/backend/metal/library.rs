//! The kernels as the device takes them.

use super::api;
use super::kernels::Kernel;
use crate::error::{Context, Result};
use std::collections::HashMap;

/// Compiled when the program was built; empty where that could not be done.
const METALLIB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/infall.metallib"));

/// All kernels in one text.
const SOURCE: &str = include_str!(concat!(env!("OUT_DIR"), "/infall.metal"));

/// The language that the source is written in.
const VERSION: (usize, usize) = (3, 0);

/// Kernels made for the device, each when it is first asked for.
pub struct Pipelines {
    library: api::Library,
    made: HashMap<(Kernel, Vec<u32>), api::Pipeline>,
}

impl Pipelines {
    /// None made yet.
    ///
    /// Errors: the device takes neither the compiled kernels nor their source.
    pub fn new(device: &api::Device) -> Result<Pipelines> {
        let library = api::autorelease_pool(|| {
            let source = || device.library_from_source(SOURCE, VERSION);
            if METALLIB.is_empty() {
                return source();
            }
            // What was compiled for a newer system is compiled for this one.
            device.library_from_data(METALLIB).or_else(|why| {
                source()
                    .context(|| format!("the compiled kernels are refused ({why}), their source"))
            })
        });
        Ok(Pipelines {
            library: library?,
            made: HashMap::new(),
        })
    }

    /// The pipeline of a kernel with its function constants; called within a pool.
    ///
    /// Errors: the kernel does not compile for this device.
    pub fn get(
        &mut self,
        device: &api::Device,
        kernel: Kernel,
        constants: &[u32],
    ) -> Result<api::Pipeline> {
        let key = (kernel, constants.to_vec());
        if let Some(pipeline) = self.made.get(&key) {
            return Ok(pipeline.clone());
        }
        let function = self.library.function(&kernel.name(), constants);
        let pipeline = function.and_then(|function| device.pipeline(&function));
        let pipeline = pipeline.context(|| kernel.name())?;
        self.made.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}
