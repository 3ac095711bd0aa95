//! Text to tokens and back, and the form in which a conversation is put to the model.

pub mod answer;
mod bpe;
pub mod call_grammar;
mod calls;
pub mod chat;
mod dsml;
mod pretokenize;
mod special;
pub mod stops;
pub mod stream;
mod tag;
pub mod tokenizer;
mod unicode;
pub mod vocabulary;
