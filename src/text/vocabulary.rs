//! The tokenizer's part of a file's metadata.

use crate::error::{Context, Error, Result};
use crate::gguf::Gguf;

const TOKENS_KEY: &str = "tokenizer.ggml.tokens";

/// The tokenizer's data as it stands in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// `tokenizer.ggml.model`, the family of tokenizers.
    pub model: String,
    /// `tokenizer.ggml.pre`, how text is split before merging.
    pub pre: String,
    /// The tokens' texts, by id.
    pub tokens: Vec<String>,
    /// The tokens' types, by id; empty when the file has none.
    pub token_types: Vec<i32>,
    /// Pairs "left right" in order of priority.
    pub merges: Vec<String>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends an answer.
    pub eos: Option<u32>,
    /// Whether a text without a chat form begins with the start token.
    pub add_bos: bool,
}

impl Vocabulary {
    /// The vocabulary of `gguf`, which may be a file without weights.
    ///
    /// Errors: `Format` when a part is missing or they contradict each other; each names the file.
    pub fn read(gguf: &Gguf) -> Result<Vocabulary> {
        read(gguf).context(|| &gguf.name)
    }
}

fn read(gguf: &Gguf) -> Result<Vocabulary> {
    let tokens = gguf.string_array(TOKENS_KEY)?;
    let n = tokens.len();
    let types_key = "tokenizer.ggml.token_type";
    let token_types = gguf.opt_i32_array(types_key)?.unwrap_or_default();
    if !token_types.is_empty() && token_types.len() != n {
        return Err(Error::format(format!(
            "key {types_key}: found {} elements, expected {n}",
            token_types.len()
        )));
    }
    let token_id = |key: &str| match gguf.opt_u32(key)? {
        Some(id) if id as usize >= n => Err(Error::format(format!(
            "key {key}: found {id}, but there are {n} tokens"
        ))),
        id => Ok(id),
    };
    Ok(Vocabulary {
        // Files of the first convention name neither; they hold the same byte-level vocabulary.
        model: gguf
            .opt_string("tokenizer.ggml.model")?
            .unwrap_or("gpt2")
            .to_owned(),
        pre: gguf
            .opt_string("tokenizer.ggml.pre")?
            .unwrap_or("joyai-llm")
            .to_owned(),
        tokens: tokens.to_vec(),
        token_types,
        merges: gguf.string_array("tokenizer.ggml.merges")?.to_vec(),
        bos: token_id("tokenizer.ggml.bos_token_id")?,
        eos: token_id("tokenizer.ggml.eos_token_id")?,
        add_bos: gguf
            .opt_bool("tokenizer.ggml.add_bos_token")?
            .unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::File;
    use std::path::Path;

    #[test]
    fn a_vocabulary_needs_no_weights() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dsv4-vocab.gguf");
        let gguf = Gguf::read(&File::open(&path).unwrap()).unwrap();
        let v = Vocabulary::read(&gguf).unwrap();
        assert_eq!((v.model.as_str(), v.pre.as_str()), ("gpt2", "joyai-llm"));
        assert_eq!((v.tokens.len(), v.token_types.len()), (129_280, 129_280));
        assert_eq!((v.bos, v.eos), (Some(0), Some(1)));
    }
}
