//! Text to tokens and back, and the form in which a conversation is put to the model.

pub mod stream;
