//! Text to tokens and back, and the form in which a conversation is put to the model.

mod bpe;
pub mod chat;
mod pretokenize;
mod special;
pub mod stream;
pub mod tokenizer;
mod unicode;
pub mod vocabulary;
