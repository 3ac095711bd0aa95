//! A graph on whatever backend the options chose, and the sessions on it.

use crate::backend::Backend;
use crate::backend::profile::Profile;
use crate::error::{Error, Result};
use crate::graph::kv::Checkpoint;
use crate::graph::{Graph, RouteProbe, SupplyWatch};
use crate::session::file::{Origin, Reader};
use crate::session::store::Store;
use crate::session::{self, Prefill};
use crate::supply::{ExpertUse, Stats, StatsTable};
use crate::units::TokenId;
use std::any::Any;
use std::ops::Range;

/// A conversation on an engine.
pub type Session = Box<dyn Conversation>;

/// What a conversation shows without its engine. See [`session::Session`].
pub trait Conversation: Any {
    /// The tokens in the cache.
    fn tokens(&self) -> &[TokenId];
    /// Tokens that still fit.
    fn room(&self) -> usize;
    /// Tokens that fit into an empty session.
    fn ctx(&self) -> usize;
    /// Logits after the last token, `[n_vocab]`; empty before the first.
    fn logits(&self) -> &[f32];
    /// Forgets everything.
    fn clear(&mut self);
    /// See [`session::Session::mark`].
    fn mark(&mut self, at: &[usize]);
    /// See [`session::Session::take_marked`].
    fn take_marked(&mut self) -> Vec<SessionCheckpoint>;
}

/// A point that a session can come back to.
pub struct SessionCheckpoint {
    n_tokens: usize,
    state: Box<dyn Any>,
}

impl SessionCheckpoint {
    fn new<B: Backend + 'static>(state: Checkpoint<B>) -> SessionCheckpoint {
        SessionCheckpoint {
            n_tokens: state.len(),
            state: Box::new(state),
        }
    }

    /// Tokens up to it.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }
}

/// What an engine asks of a graph. Every call with a session, or a checkpoint, of another engine's backend is a usage
/// error.
pub trait Machine {
    /// See [`Graph::describe`].
    fn describe(&self) -> String;
    /// See [`Graph::locked_bytes`].
    fn locked_bytes(&self) -> u64;
    /// See [`Graph::check`].
    fn check(&self) -> Result<()>;
    /// See [`Graph::supply_stats`].
    fn supply_stats(&self) -> Stats;
    /// See [`Graph::supply_table`].
    fn supply_table(&self) -> &StatsTable;
    /// See [`Graph::expert_uses`].
    fn expert_uses(&self) -> Vec<ExpertUse>;
    /// See [`Graph::set_route_probe`].
    fn set_route_probe(&mut self, probe: Option<RouteProbe>);
    /// See [`Graph::set_supply_watch`].
    fn set_supply_watch(&mut self, watch: Option<SupplyWatch>);
    /// See [`Backend::start_profile`].
    fn start_profile(&mut self);
    /// See [`Backend::profile`].
    fn profile(&mut self) -> Option<&Profile>;
    /// An empty session for `ctx` tokens.
    ///
    /// Errors: memory is refused.
    fn session(&mut self, ctx: usize) -> Result<Session>;
    /// See [`session::Session::prefill`].
    fn prefill(
        &mut self,
        session: &mut Session,
        tokens: &[TokenId],
        keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Prefill>;
    /// See [`session::Session::prefill_all_logits`].
    fn prefill_all_logits(
        &mut self,
        session: &mut Session,
        tokens: &[TokenId],
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()>;
    /// See [`session::Session::prefill_windows`].
    fn prefill_windows(
        &mut self,
        sessions: &mut [Session],
        tokens: &[TokenId],
        rows: Range<usize>,
        keep_going: &mut dyn FnMut(usize) -> bool,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<bool>;
    /// See [`session::Session::decode`].
    fn decode(&mut self, session: &mut Session, token: TokenId) -> Result<()>;
    /// See [`session::Session::checkpoint`].
    fn checkpoint(&mut self, session: &Session) -> Result<SessionCheckpoint>;
    /// See [`session::Session::rewind`].
    fn rewind(&mut self, session: &mut Session, to: &SessionCheckpoint) -> Result<()>;
    /// See [`session::Session::copy`].
    fn copy(&mut self, to: &mut Session, from: &Session, at: &SessionCheckpoint) -> Result<()>;
    /// See [`session::origin`].
    fn origin(&mut self, model_hash: u64) -> Origin;
    /// See [`Store::save`].
    fn save(
        &mut self,
        session: &mut Session,
        points: &[(&SessionCheckpoint, bool)],
        origin: Origin,
        store: &Store,
        name: Option<&str>,
        spared: Option<&str>,
    ) -> Result<String>;
    /// See [`session::Session::restore_with_points`].
    fn restore(
        &mut self,
        session: &mut Session,
        origin: &Origin,
        from: &mut Reader,
    ) -> Result<Vec<SessionCheckpoint>>;
}

impl<B: Backend + 'static> Conversation for session::Session<B> {
    fn tokens(&self) -> &[TokenId] {
        self.tokens()
    }

    fn room(&self) -> usize {
        self.room()
    }

    fn ctx(&self) -> usize {
        self.ctx()
    }

    fn logits(&self) -> &[f32] {
        self.logits()
    }

    fn clear(&mut self) {
        self.clear();
    }

    fn mark(&mut self, at: &[usize]) {
        self.mark(at);
    }

    fn take_marked(&mut self) -> Vec<SessionCheckpoint> {
        let marked = self.take_marked();
        marked.into_iter().map(SessionCheckpoint::new).collect()
    }
}

/// The session as one of this backend.
fn own<B: Backend + 'static>(session: &mut Session) -> Result<&mut session::Session<B>> {
    let any: &mut dyn Any = &mut **session;
    any.downcast_mut().ok_or_else(foreign)
}

fn foreign() -> Error {
    Error::usage("found a session of an engine with another backend, expected one of this engine")
}

impl<B: Backend + 'static> Machine for Graph<B> {
    fn describe(&self) -> String {
        self.describe()
    }

    fn locked_bytes(&self) -> u64 {
        self.locked_bytes()
    }

    fn check(&self) -> Result<()> {
        self.check()
    }

    fn supply_stats(&self) -> Stats {
        self.supply_stats()
    }

    fn supply_table(&self) -> &StatsTable {
        self.supply_table()
    }

    fn expert_uses(&self) -> Vec<ExpertUse> {
        self.expert_uses()
    }

    fn set_route_probe(&mut self, probe: Option<RouteProbe>) {
        self.set_route_probe(probe);
    }

    fn set_supply_watch(&mut self, watch: Option<SupplyWatch>) {
        self.set_supply_watch(watch);
    }

    fn start_profile(&mut self) {
        self.backend().start_profile();
    }

    fn profile(&mut self) -> Option<&Profile> {
        self.backend().profile()
    }

    fn session(&mut self, ctx: usize) -> Result<Session> {
        Ok(Box::new(session::Session::new(self.cache(ctx)?)))
    }

    fn prefill(
        &mut self,
        session: &mut Session,
        tokens: &[TokenId],
        keep_going: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Prefill> {
        own(session)?.prefill(self, tokens, keep_going)
    }

    fn prefill_all_logits(
        &mut self,
        session: &mut Session,
        tokens: &[TokenId],
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        own(session)?.prefill_all_logits(self, tokens, sink)
    }

    fn prefill_windows(
        &mut self,
        sessions: &mut [Session],
        tokens: &[TokenId],
        rows: Range<usize>,
        keep_going: &mut dyn FnMut(usize) -> bool,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<bool> {
        let mut sessions = sessions.iter_mut().map(own).collect::<Result<Vec<_>>>()?;
        session::Session::prefill_windows(&mut sessions, self, tokens, rows, keep_going, sink)
    }

    fn decode(&mut self, session: &mut Session, token: TokenId) -> Result<()> {
        own(session)?.decode(self, token)
    }

    fn checkpoint(&mut self, session: &Session) -> Result<SessionCheckpoint> {
        let session: &dyn Any = &**session;
        let session: &session::Session<B> = session.downcast_ref().ok_or_else(foreign)?;
        Ok(SessionCheckpoint::new(session.checkpoint(self)?))
    }

    fn rewind(&mut self, session: &mut Session, to: &SessionCheckpoint) -> Result<()> {
        let to: &Checkpoint<B> = to.state.downcast_ref().ok_or_else(foreign)?;
        own(session)?.rewind(self, to)
    }

    fn copy(&mut self, to: &mut Session, from: &Session, at: &SessionCheckpoint) -> Result<()> {
        let from: &dyn Any = &**from;
        let from: &session::Session<B> = from.downcast_ref().ok_or_else(foreign)?;
        let at: &Checkpoint<B> = at.state.downcast_ref().ok_or_else(foreign)?;
        own(to)?.copy(self, from, at)
    }

    fn origin(&mut self, model_hash: u64) -> Origin {
        session::origin(self, model_hash)
    }

    fn save(
        &mut self,
        session: &mut Session,
        points: &[(&SessionCheckpoint, bool)],
        origin: Origin,
        store: &Store,
        name: Option<&str>,
        spared: Option<&str>,
    ) -> Result<String> {
        let session = own(session)?;
        let points = points.iter().map(|(point, is_shared)| {
            let point: &Checkpoint<B> = point.state.downcast_ref().ok_or_else(foreign)?;
            Ok((point, *is_shared))
        });
        let points: Vec<(&Checkpoint<B>, bool)> = points.collect::<Result<_>>()?;
        let header = session.header_with_points(origin, &points);
        store.save_sparing(name, spared, &header, &mut |out| {
            session.save(self, out)?;
            let mut points = points.iter();
            points.try_for_each(|(point, _)| session.save_point(self, point, out))
        })
    }

    fn restore(
        &mut self,
        session: &mut Session,
        origin: &Origin,
        from: &mut Reader,
    ) -> Result<Vec<SessionCheckpoint>> {
        let points = own(session)?.restore_with_points(self, origin, from)?;
        Ok(points.into_iter().map(SessionCheckpoint::new).collect())
    }
}
