//! Writes GGUF files: metadata and tensor declarations first, then the data in one pass.

use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, TensorInfo, checked_alignment, data_len};
use crate::error::{Error, Result};
use crate::quant::Format;
use crate::units::Extent;
use std::io::Write;

/// A file that is being described.
#[derive(Clone, Debug)]
pub struct Writer {
    version: u32,
    alignment: u32,
    metadata: Vec<u8>,
    n_keys: u64,
    /// Offsets count from the start of the data.
    tensors: Vec<Declared>,
    /// Bytes of all data so far, a multiple of the alignment.
    data_len: u64,
}

#[derive(Clone, Debug)]
struct Declared {
    info: TensorInfo,
    /// Its data is that of an earlier tensor.
    is_alias: bool,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer::new()
    }
}

impl Writer {
    /// An empty file of version 3 with the default alignment.
    pub fn new() -> Writer {
        Writer {
            version: 3,
            alignment: DEFAULT_ALIGNMENT,
            metadata: Vec::new(),
            n_keys: 0,
            tensors: Vec::new(),
            data_len: 0,
        }
    }

    /// Writes version 2 instead; the layout is the same.
    #[must_use]
    pub fn version_2(mut self) -> Writer {
        self.version = 2;
        self
    }

    /// Aligns tensor data to `alignment` bytes and says so in the metadata.
    ///
    /// Errors: `Format` when it is no power of two in range. To be called before any tensor is declared.
    pub fn aligned(mut self, alignment: u32) -> Result<Writer> {
        assert!(
            self.tensors.is_empty(),
            "the alignment comes before the tensors"
        );
        self.alignment = checked_alignment(alignment)?;
        self.u32(ALIGNMENT_KEY, alignment);
        Ok(self)
    }

    /// Adds an unsigned 32-bit number.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.entry(key, 4, &value.to_le_bytes())
    }

    /// Adds an unsigned 64-bit number.
    pub fn u64(&mut self, key: &str, value: u64) -> &mut Self {
        self.entry(key, 10, &value.to_le_bytes())
    }

    /// Adds a 32-bit floating-point number.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.entry(key, 6, &value.to_le_bytes())
    }

    /// Adds a bool.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.entry(key, 7, &[u8::from(value)])
    }

    /// Adds a text.
    pub fn string(&mut self, key: &str, value: &str) -> &mut Self {
        let mut bytes = Vec::new();
        put_string(&mut bytes, value);
        self.entry(key, 8, &bytes)
    }

    /// Adds an array of unsigned 32-bit numbers.
    pub fn u32_array(&mut self, key: &str, values: &[u32]) -> &mut Self {
        self.array(key, 4, values, |out, v| out.extend(v.to_le_bytes()))
    }

    /// Adds an array of signed 32-bit numbers.
    pub fn i32_array(&mut self, key: &str, values: &[i32]) -> &mut Self {
        self.array(key, 5, values, |out, v| out.extend(v.to_le_bytes()))
    }

    /// Adds an array of 32-bit floating-point numbers.
    pub fn f32_array(&mut self, key: &str, values: &[f32]) -> &mut Self {
        self.array(key, 6, values, |out, v| out.extend(v.to_le_bytes()))
    }

    /// Adds an array of texts.
    pub fn string_array<S: AsRef<str>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        self.array(key, 8, values, |out, v| put_string(out, v.as_ref()))
    }

    fn array<T>(
        &mut self,
        key: &str,
        type_id: u32,
        values: &[T],
        put: impl Fn(&mut Vec<u8>, &T),
    ) -> &mut Self {
        let mut bytes = type_id.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            put(&mut bytes, value);
        }
        self.entry(key, 9, &bytes)
    }

    fn entry(&mut self, key: &str, type_id: u32, value: &[u8]) -> &mut Self {
        put_string(&mut self.metadata, key);
        self.metadata.extend(type_id.to_le_bytes());
        self.metadata.extend(value);
        self.n_keys += 1;
        self
    }

    /// Declares a tensor; `dims` fastest first. Its data follows that of the tensors before it.
    ///
    /// Errors: `Format` when a row is no whole number of blocks or sizes overflow.
    pub fn tensor(&mut self, name: &str, dims: &[u64], format: Format) -> Result<()> {
        let info = shaped(name, dims, format, self.data_len)?;
        let end = info.extent.end();
        self.data_len = end
            .and_then(|end| end.checked_next_multiple_of(u64::from(self.alignment)))
            .ok_or_else(|| Error::format(format!("tensor {name}: the file's length overflows")))?;
        self.tensors.push(Declared {
            info,
            is_alias: false,
        });
        Ok(())
    }

    /// Declares a tensor whose data are the first bytes of those of `other`, an earlier tensor.
    ///
    /// Errors: as [`Writer::tensor`]; also when there is no `other` or it is shorter.
    pub fn alias(&mut self, name: &str, dims: &[u64], format: Format, other: &str) -> Result<()> {
        let other = self
            .tensors
            .iter()
            .find(|t| t.info.name == other)
            .ok_or_else(|| Error::format(format!("tensor {name}: no tensor {other} before it")))?;
        let Extent { offset, len } = other.info.extent;
        let info = shaped(name, dims, format, offset)?;
        if info.extent.len > len {
            return Err(Error::format(format!(
                "tensor {name}: {} bytes, but the other has {len}",
                info.extent.len
            )));
        }
        self.tensors.push(Declared {
            info,
            is_alias: true,
        });
        Ok(())
    }

    /// Everything before the tensor data, with its padding.
    pub fn header(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.to_le_bytes());
        out.extend(&self.metadata);
        for Declared { info, .. } in &self.tensors {
            put_string(&mut out, &info.name);
            out.extend((info.dims.len() as u32).to_le_bytes());
            for n in &info.dims {
                out.extend(n.to_le_bytes());
            }
            out.extend(info.format.id().to_le_bytes());
            out.extend(info.extent.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        out
    }

    /// Bytes of the tensor data, each tensor filled up to the alignment.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Writes the file. For each tensor, in the order of declaration, `fill` writes the data, exactly as
    /// many bytes as the shape asks for; tensors declared by [`Writer::alias`] have none of their own.
    ///
    /// Errors: those of `fill`; `Io` when `out` fails; `Format` when `fill` writes too little or too much.
    pub fn write(
        &self,
        out: &mut dyn Write,
        mut fill: impl FnMut(&TensorInfo, &mut Sink) -> Result<()>,
    ) -> Result<()> {
        let mut sink = Sink { out, written: 0 };
        sink.put(&self.header())?;
        let start = sink.written;
        for Declared { info, .. } in self.tensors.iter().filter(|t| !t.is_alias) {
            sink.pad(start + info.extent.offset)?;
            let before = sink.written;
            fill(info, &mut sink).map_err(|e| e.context(format_args!("tensor {}", info.name)))?;
            let (found, expected) = (sink.written - before, info.extent.len);
            if found != expected {
                let name = &info.name;
                return Err(Error::format(format!(
                    "tensor {name}: {found} bytes written, expected {expected}"
                )));
            }
        }
        sink.pad(start + self.data_len)?;
        sink.out.flush().map_err(|e| Error::io("flush", &e))
    }
}

/// A directory entry of these dimensions.
fn shaped(name: &str, dims: &[u64], format: Format, offset: u64) -> Result<TensorInfo> {
    let len = data_len(dims, format).map_err(|e| e.context(format_args!("tensor {name}")))?;
    Ok(TensorInfo {
        name: name.to_owned(),
        dims: dims.to_vec(),
        format,
        extent: Extent { offset, len },
    })
}

/// Where tensor data goes; counts it.
pub struct Sink<'a> {
    out: &'a mut dyn Write,
    written: u64,
}

impl Sink<'_> {
    /// Writes `bytes`.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out
            .write_all(bytes)
            .map_err(|e| Error::io("write", &e))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to offset `end`, less than one alignment away.
    fn pad(&mut self, end: u64) -> Result<()> {
        let missing = (end - self.written) as usize;
        self.put(&vec![0; missing])
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
