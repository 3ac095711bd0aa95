//! A session as a file, and back.

use super::Session;
use super::file::{Header, Origin, Reader, SavedPoint, TokensHash, Writer};
use crate::backend::Backend;
use crate::error::{Context, Error, Result};
use crate::graph::Graph;
use crate::graph::kv::Checkpoint;
use crate::quant::cast;
use crate::units::TokenId;

/// What sessions of a graph are computed with.
pub fn origin<B: Backend>(graph: &mut Graph<B>, model_hash: u64) -> Origin {
    let arithmetic = graph.backend().arithmetic();
    let config = graph.config();
    Origin {
        model_hash,
        // Bounded when the model was read.
        n_layer: config.n_layer as u32,
        n_vocab: config.n_vocab as u32,
        kv: graph.kv_format(),
        arithmetic,
    }
}

impl<B: Backend> Session<B> {
    /// What a file of this session begins with.
    pub fn header(&self, origin: Origin) -> Header {
        let (n_tokens, has_logits) = (self.tokens.len() as u64, !self.logits.is_empty());
        Header {
            n_tokens,
            tokens_hash: TokensHash::of(&self.tokens).0,
            has_logits,
            body_bytes: self.body_bytes(&origin, n_tokens, has_logits),
            origin,
            points: Vec::new(),
        }
    }

    /// The same for a file with points of this session, which follow what [`Session::save`] writes.
    pub fn header_with_points(&self, origin: Origin, points: &[(&Checkpoint<B>, bool)]) -> Header {
        let mut header = self.header(origin);
        let (mut hash, mut n) = (TokensHash::EMPTY, 0);
        for (point, is_shared) in points {
            let more = self.tokens.get(n..point.len()).unwrap_or_default();
            hash = more.iter().fold(hash, |hash, token| hash.then(*token));
            n = point.len();
            header.body_bytes += self.kv.point_bytes(n);
            header.points.push(SavedPoint {
                n_tokens: n as u64,
                tokens_hash: hash.0,
                is_shared: *is_shared,
            });
        }
        header
    }

    fn body_bytes(&self, origin: &Origin, n_tokens: u64, has_logits: bool) -> u64 {
        let n_logits = if has_logits { origin.n_vocab } else { 0 };
        4 * n_tokens + self.kv.held_bytes(n_tokens as usize) + 4 * u64::from(n_logits)
    }

    /// Writes what the header promised.
    ///
    /// Errors: a failed write, a failed device.
    pub fn save(&self, graph: &mut Graph<B>, out: &mut Writer) -> Result<()> {
        for tokens in self.tokens.chunks(TOKENS_AT_ONCE) {
            let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
            out.write(cast::to_bytes(&ids))?;
        }
        self.kv
            .give(graph.backend(), &mut |bytes| out.write(bytes))?;
        out.write(cast::to_bytes(&self.logits))
    }

    /// Writes a point behind what [`Session::save`] wrote.
    ///
    /// Errors: a failed write, a failed device.
    pub fn save_point(
        &self,
        graph: &mut Graph<B>,
        point: &Checkpoint<B>,
        out: &mut Writer,
    ) -> Result<()> {
        self.kv
            .give_point(graph.backend(), point, &mut |bytes| out.write(bytes))
    }

    /// As [`Session::restore_with_points`], without the points.
    ///
    /// Errors: the same.
    pub fn restore(
        &mut self,
        graph: &mut Graph<B>,
        origin: &Origin,
        from: &mut Reader,
    ) -> Result<()> {
        self.restore_with_points(graph, origin, from).map(drop)
    }

    /// Forgets everything and takes the session of a file, computed with `origin`, and gives its points.
    ///
    /// Errors: a file that does not fit this session or is damaged, a failed read. What the header shows leaves the
    /// session as it was; behind it the session is empty.
    pub fn restore_with_points(
        &mut self,
        graph: &mut Graph<B>,
        origin: &Origin,
        from: &mut Reader,
    ) -> Result<Vec<Checkpoint<B>>> {
        self.check_header(origin, from.header())
            .context(|| from.name().to_string())?;
        let result = self.take(graph, from);
        if result.is_err() {
            self.clear();
        }
        result
    }

    fn check_header(&self, origin: &Origin, header: &Header) -> Result<()> {
        header.origin.check(origin)?;
        let n = header.n_tokens;
        if n > self.ctx() as u64 {
            return Err(Error::unsupported(format!(
                "{n} tokens, expected at most {} (--ctx sets the size of the context)",
                self.ctx()
            )));
        }
        let points = header.points.iter();
        let points = points.map(|point| self.kv.point_bytes(point.n_tokens as usize));
        let expected = self.body_bytes(origin, n, header.has_logits) + points.sum::<u64>();
        let found = header.body_bytes;
        if found != expected {
            return Err(Error::format(format!(
                "{n} tokens in {found} bytes, expected {expected}"
            )));
        }
        Ok(())
    }

    fn take(&mut self, graph: &mut Graph<B>, from: &mut Reader) -> Result<Vec<Checkpoint<B>>> {
        self.clear();
        let Header {
            n_tokens,
            has_logits,
            tokens_hash,
            ..
        } = *from.header();
        let n = n_tokens as usize; // at most the context, by `check_header`
        let n_vocab = graph.config().n_vocab;
        while self.tokens.len() < n {
            let mut ids = vec![0u32; TOKENS_AT_ONCE.min(n - self.tokens.len())];
            from.read(cast::to_bytes_mut(&mut ids))?;
            if let Some(id) = ids.iter().find(|id| **id as usize >= n_vocab) {
                let error = Error::limit("token id", id, n_vocab - 1);
                return Err(error.context(from.name()));
            }
            self.tokens.extend(ids.into_iter().map(TokenId));
        }
        let hash = TokensHash::of(&self.tokens).0;
        if hash != tokens_hash {
            return Err(Error::format(format!(
                "{}: tokens with the hash {hash:016x}, expected {tokens_hash:016x}",
                from.name()
            )));
        }
        self.kv
            .take(graph.backend(), n, &mut |bytes| from.read(bytes))?;
        if has_logits {
            self.logits.resize(n_vocab, 0.0);
            from.read(cast::to_bytes_mut(&mut self.logits))?;
        }
        let points: Vec<usize> = from
            .header()
            .points
            .iter()
            .map(|p| p.n_tokens as usize)
            .collect();
        let points = points.into_iter();
        points
            .map(|n| graph.take_point(&self.kv, n, &mut |bytes| from.read(bytes)))
            .collect()
    }
}

/// Tokens that are turned into bytes together.
const TOKENS_AT_ONCE: usize = 4096;
