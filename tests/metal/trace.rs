//! What leaves each layer, on Metal and on the plain kernels of the CPU.

use crate::common::{Folder, Loaded, golden, micro_ids};
use crate::model::{open, options};
use infall::backend::Backend;
use infall::gguf::Gguf;
use infall::options::KernelChoice;
use infall::os::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// How many tokens, and from which on they are decoded one by one.
type Tokens = [usize; 2];
/// Windows of 4 close in both parts, and those of 128 in the second.
const MANY: Tokens = [130, 126];
const FEW: Tokens = [20, 18];

/// How far the residual streams of a layer may be apart, in units of the largest value of the layer. `tests/golden.rs`
/// allows each backend 1e-4 to float64; sums of up to 1024 f32 terms, one after the other over five layers, account for
/// some 1e-5.
const BOUND: f32 = 1e-4;

/// Residual streams at each border of layers, those of all passes one after the other.
type Trace = Vec<Vec<f32>>;

fn trace<B: Backend>(mut loaded: Loaded<B>, [n, decode_from]: Tokens) -> Trace {
    let seen = Arc::new(Mutex::new(Trace::new()));
    let sink = Arc::clone(&seen);
    loaded.probe(Box::new(move |layer, streams| {
        let mut seen = sink.lock().unwrap();
        let at = layer.0;
        if seen.len() <= at {
            seen.resize(at + 1, Vec::new());
        }
        seen[at].extend_from_slice(streams);
    }));
    loaded.logits(&micro_ids()[..n], decode_from);
    drop(loaded);
    Arc::into_inner(seen).unwrap().into_inner().unwrap()
}

fn on_metal(model: &Path, tokens: Tokens) -> Trace {
    trace(open(&options(model, 64)), tokens)
}

fn on_cpu(model: &Path, tokens: Tokens) -> Trace {
    let mut options = options(model, 64);
    options.kernels = KernelChoice::Scalar;
    trace(Loaded::open(&options).unwrap(), tokens)
}

/// For each border the largest difference, in units of its largest value.
fn differences(found: &Trace, expected: &Trace) -> Vec<f32> {
    assert_eq!(found.len(), expected.len());
    let difference = |(found, expected): (&Vec<f32>, &Vec<f32>)| {
        assert_eq!(found.len(), expected.len());
        let size = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let pairs = found.iter().zip(expected);
        pairs.fold(0.0f32, |m, (f, e)| {
            let d = (f - e).abs() / size;
            if d <= m { m } else { d } // NaN is the largest
        })
    };
    found.iter().zip(expected).map(difference).collect()
}

/// The model with another weight, in a layer's norm in front of its attention.
fn with_a_fault(folder: &Folder, layer: usize) -> std::path::PathBuf {
    let model = golden("micro-q2.gguf");
    let gguf = Gguf::read(&File::open(&model).unwrap()).unwrap();
    let name = format!("blk.{layer}.attn_norm.weight");
    let at = gguf.tensor(&name).unwrap().extent.offset as usize;
    let mut bytes = std::fs::read(model).unwrap();
    let weight = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    bytes[at..at + 4].copy_from_slice(&(weight * 1.5).to_le_bytes());
    folder.write("faulty.gguf", bytes);
    folder.path("faulty.gguf")
}

#[test]
fn every_layer_gives_what_it_gives_on_the_cpu() {
    crate::pair::in_some_order(|| {
        // Other tests do; it takes most of the time.
        #[cfg(not(target_os = "macos"))]
        infall::backend::metal::sim::control::set_order_check(false);
        let model = golden("micro-q2.gguf");
        let expected = on_cpu(&model, MANY);
        assert_eq!(expected.len(), 6, "five layers have six borders");
        let found = differences(&on_metal(&model, MANY), &expected);
        println!("relative differences at the borders of layers: {found:?}");
        assert!(found.iter().all(|d| *d <= BOUND), "{found:?}");
        // One other weight in one layer: what comes before it is right, and what it gives is not.
        let folder = Folder::new("metal-trace");
        let expected = on_cpu(&model, FEW);
        for layer in [0, 3] {
            let found = differences(&on_metal(&with_a_fault(&folder, layer), FEW), &expected);
            let first = found.iter().position(|d| *d > BOUND);
            assert_eq!(
                first,
                Some(layer + 1),
                "a fault in layer {layer}: {found:?}"
            );
        }
    });
}
