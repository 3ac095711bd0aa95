//! Runs a grammar over bytes: which may follow, all alternatives at once.
//!
//! ```text
//! cell     what is left of one node, and the cell of what follows it: a stack, shared by all that came this way
//! state    the cells that wait for a byte, and whether the text may end: all that was read, as far as it matters
//! table    per state and byte the next state, filled when first asked for
//! ```
//!
//! Equal cells and equal states are kept once, so that a state is a number and two beginnings with the same future share it.

use super::decimal::Written;
use super::grammar::{Between, Grammar, List, Members, Node, NodeId};
use super::text::Place;
use std::collections::HashMap;
use std::sync::Arc;

/// Alternatives that a state follows; more are left out, which forbids some texts but leaves each one that is begun an end.
const MAX_ALTERNATIVES: usize = 1 << 12;

/// States at which [`Machine::rest`] begins anew: 4 MiB of table.
const MANY_STATES: usize = 1 << 12;

/// Cells at which it does.
const MANY_CELLS: usize = 1 << 16;

/// States after which no new one is made before the next [`Machine::rest`]: bytes that would need one are refused.
const MAX_STATES: usize = 1 << 14;

/// A state of a [`Machine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State(u32);

/// In the table: nothing follows; not asked for yet.
const REFUSED: u32 = u32::MAX;
const UNKNOWN: u32 = u32::MAX - 1;

type CellId = u32;

/// The cell below all others: the end of the text.
const END: CellId = u32::MAX;

/// What is left of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum At {
    /// `Bytes`, `Seq`, `List`: those behind this many; other nodes: all of it, with 0.
    Nth(u32),
    Member(AtMember),
    Text(Place),
    Decimal(Written),
}

/// A place between members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct AtMember {
    /// The number of the first that may follow.
    from: u32,
    /// How many were written.
    n: u32,
    /// Whether what stands in front of a member was written, so that one must follow.
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Cell {
    node: NodeId,
    at: At,
    below: CellId,
    /// The level on which the pieces of the node stand.
    depth: u8,
}

/// A grammar that runs.
#[derive(Clone, Debug)]
pub struct Machine {
    grammar: Arc<Grammar>,
    cells: Vec<Cell>,
    cell_ids: HashMap<Cell, CellId>,
    /// Per state the cells that wait for a byte, sorted, and whether the text may end.
    states: Vec<(Arc<[CellId]>, bool)>,
    state_ids: HashMap<(Arc<[CellId]>, bool), State>,
    table: Vec<u32>,
    /// Per set of cells that stand for all like them, the state that was seen first.
    alike: HashMap<(Vec<Cell>, bool), State>,
    start: State,
    /// Cells that are to be gone into; those that were, each marked with the number of the search.
    open: Vec<CellId>,
    seen: Vec<u32>,
    search: u32,
}

impl Machine {
    /// A machine before the first byte.
    pub fn new(grammar: Arc<Grammar>) -> Machine {
        let mut machine = Machine {
            grammar,
            cells: Vec::new(),
            cell_ids: HashMap::new(),
            states: Vec::new(),
            state_ids: HashMap::new(),
            table: Vec::new(),
            alike: HashMap::new(),
            start: State(0),
            open: Vec::new(),
            seen: Vec::new(),
            search: 0,
        };
        machine.enter(machine.grammar.root(), END);
        machine.start = machine.close();
        machine
    }

    /// The state before the first byte.
    pub fn start(&self) -> State {
        self.start
    }

    /// Whether a text may end in a state.
    pub fn is_complete(&self, state: State) -> bool {
        self.states[state.0 as usize].1
    }

    /// Whether nothing may follow a state.
    pub fn is_finished(&self, state: State) -> bool {
        self.states[state.0 as usize].0.is_empty()
    }

    /// The state behind a byte, `None` when no text goes on so.
    #[inline]
    pub fn next(&mut self, state: State, byte: u8) -> Option<State> {
        let at = state.0 as usize * 256 + usize::from(byte);
        let found = match self.table[at] {
            UNKNOWN => self.find(state, byte),
            found => found,
        };
        (found != REFUSED).then_some(State(found))
    }

    /// A state behind which the same `n` bytes may follow, if there was one; it has the same mask for tokens of so many bytes.
    pub fn alike(&mut self, state: State, n: usize) -> State {
        let (waiting, complete) = self.states[state.0 as usize].clone();
        let grammar = &self.grammar;
        let alike = |cell: &Cell| match (grammar.node(cell.node), cell.at) {
            (Node::Text(text), At::Text(place)) => At::Text(text.alike(place, n)),
            (_, at) => at,
        };
        let cells = || waiting.iter().map(|id| self.cells[*id as usize]);
        if cells().all(|cell| alike(&cell) == cell.at) {
            return state;
        }
        let mut key: Vec<Cell> = cells()
            .map(|cell| Cell {
                at: alike(&cell),
                ..cell
            })
            .collect();
        key.sort_unstable();
        *self.alike.entry((key, complete)).or_insert(state)
    }

    /// Forgets all but one state once there are many, and gives its new number. Masks of other states are void then, which
    /// the flag tells.
    pub fn rest(&mut self, state: State) -> (State, bool) {
        if self.states.len() < MANY_STATES && self.cells.len() < MANY_CELLS {
            return (state, false);
        }
        let mut fresh = Machine::new(self.grammar.clone());
        let (waiting, complete) = self.states[state.0 as usize].clone();
        let mut copies = HashMap::from([(END, END)]);
        let kept = waiting.iter().map(|cell| {
            // From the top down to what is copied already, then up again.
            let (mut stack, mut at) = (Vec::new(), *cell);
            while !copies.contains_key(&at) {
                stack.push(at);
                at = self.cells[at as usize].below;
            }
            let mut below = copies[&at];
            while let Some(id) = stack.pop() {
                let cell = Cell {
                    below,
                    ..self.cells[id as usize]
                };
                below = fresh.intern(cell);
                copies.insert(id, below);
            }
            below
        });
        let mut kept: Vec<CellId> = kept.collect();
        kept.sort_unstable();
        let state = fresh.state(kept, complete);
        *self = fresh;
        (state, true)
    }

    #[cold]
    fn find(&mut self, state: State, byte: u8) -> u32 {
        if self.states.len() >= MAX_STATES || self.cells.len() >= 2 * MANY_CELLS {
            return REFUSED; // not kept: it may be found after a rest
        }
        let (waiting, _) = self.states[state.0 as usize].clone();
        let grammar = self.grammar.clone();
        for id in waiting.iter() {
            let cell = self.cells[*id as usize];
            let at = match (grammar.node(cell.node), cell.at) {
                (Node::Bytes(bytes), At::Nth(n)) if bytes.get(n as usize) == Some(&byte) => {
                    At::Nth(n + 1)
                }
                (Node::OneOf(set), At::Nth(0))
                    if set[usize::from(byte) / 64] >> (byte % 64) & 1 == 1 =>
                {
                    self.open.push(cell.below);
                    continue;
                }
                (Node::Text(text), At::Text(place)) => match text.next(place, byte) {
                    Some(place) => At::Text(place),
                    None => continue,
                },
                (Node::Decimal(decimal), At::Decimal(written)) => {
                    match decimal.next(written, byte) {
                        Some(written) => At::Decimal(written),
                        None => continue,
                    }
                }
                _ => continue,
            };
            let next = self.intern(Cell { at, ..cell });
            self.open.push(next);
        }
        let found = match self.open.is_empty() {
            true => REFUSED,
            false => self.close().0,
        };
        self.table[state.0 as usize * 256 + usize::from(byte)] = found;
        found
    }

    /// Goes into all open cells until each waits for a byte: the state that they are.
    fn close(&mut self) -> State {
        let grammar = self.grammar.clone();
        self.search += 1;
        let (mut waiting, mut complete) = (Vec::new(), false);
        while let Some(id) = self.open.pop() {
            if id == END {
                complete = true;
                continue;
            }
            self.seen.resize(self.cells.len(), 0);
            if std::mem::replace(&mut self.seen[id as usize], self.search) == self.search {
                continue;
            }
            let cell = self.cells[id as usize];
            let below = cell.below;
            match (grammar.node(cell.node), cell.at) {
                (Node::Bytes(bytes), At::Nth(n)) if n as usize == bytes.len() => {
                    self.open.push(below)
                }
                (Node::Seq(all), At::Nth(n)) => match all.get(n as usize) {
                    None => self.open.push(below),
                    // Nothing is kept of what ends with its last part, so that what repeats itself stays small.
                    Some(last) if n as usize + 1 == all.len() => self.enter(*last, below),
                    Some(next) => {
                        let rest = self.intern(Cell {
                            at: At::Nth(n + 1),
                            ..cell
                        });
                        self.enter(*next, rest);
                    }
                },
                (Node::Alt(any), _) => any.iter().for_each(|node| self.enter(*node, below)),
                (Node::List(list), At::Nth(n)) => self.enter_list(&grammar, list, cell, n),
                (Node::Members(members), At::Member(at)) => {
                    self.enter_members(&grammar, members, cell, at);
                }
                (Node::Text(text), At::Text(place)) => {
                    if text.may_end(place) {
                        self.open.push(below);
                    }
                    waiting.push(id);
                }
                (Node::Decimal(decimal), At::Decimal(written)) => {
                    if decimal.is_whole(written) {
                        self.open.push(below);
                    }
                    waiting.push(id);
                }
                _ => waiting.push(id),
            }
        }
        waiting.sort_unstable();
        waiting.truncate(MAX_ALTERNATIVES);
        self.state(waiting, complete)
    }

    fn enter_list(&mut self, grammar: &Grammar, list: &List, cell: Cell, n: u32) {
        if n >= list.min {
            self.leave(list.between, n, cell.below);
        }
        let Some(piece) = list.piece(n) else { return };
        if grammar.fits(piece, cell.depth) {
            let rest = self.intern(Cell {
                at: At::Nth(list.same(n + 1)),
                ..cell
            });
            if let Some(piece) = self.cell(piece, rest) {
                self.enter(list.between.before(n), piece);
            }
        }
    }

    /// Goes on behind `n` members: to the end, to what stands in front of one more, and, once that was written, to the member.
    fn enter_members(&mut self, grammar: &Grammar, members: &Members, cell: Cell, at: AtMember) {
        let AtMember { from, n, begun } = at;
        let rest = members.members.get(from as usize..).unwrap_or_default();
        let mut n_required = rest.iter().filter(|member| member.required).count() as u32;
        if !begun && n_required == 0 && n >= members.min {
            self.leave(members.between, n, cell.below);
        }
        let mut n_available = grammar.available(members, from as usize, cell.depth);
        let mut next = Vec::new();
        for (i, member) in rest.iter().enumerate() {
            let fits = grammar.fits(member.node, cell.depth);
            n_required -= u32::from(member.required);
            n_available -= u32::from(fits);
            let is_within = n + n_required < members.max && n + 1 + n_available >= members.min;
            if fits && is_within {
                next.push((member.node, from + i as u32 + 1));
            }
            if member.required {
                break;
            }
        }
        // All extra ones count as one for `min`, so that the first must be enough. `from` goes beyond the end with it.
        if rest.iter().all(|member| !member.required)
            && n < members.max
            && n + 1 >= members.min
            && let Some(extra) = members
                .extra
                .filter(|extra| grammar.fits(*extra, cell.depth))
        {
            next.push((extra, members.members.len() as u32 + 1));
        }
        if !begun && !next.is_empty() {
            let begun = self.intern(Cell {
                at: At::Member(AtMember { begun: true, ..at }),
                ..cell
            });
            return self.enter(members.between.before(n), begun);
        }
        for (node, from) in next {
            let n = members.same(n + 1);
            let rest = self.intern(Cell {
                at: At::Member(AtMember {
                    from,
                    n,
                    begun: false,
                }),
                ..cell
            });
            self.enter(node, rest);
        }
    }

    /// Goes on behind `n` pieces.
    fn leave(&mut self, between: Between, n: u32, below: CellId) {
        let end = if n == 0 { between.empty } else { between.end };
        self.enter(end, below);
    }

    /// Goes into a node, if it fits.
    fn enter(&mut self, node: NodeId, below: CellId) {
        let cell = self.cell(node, below);
        self.open.extend(cell);
    }

    /// All of a node, if it fits.
    fn cell(&mut self, node: NodeId, below: CellId) -> Option<CellId> {
        let depth = match below {
            END => 0,
            below => self.cells[below as usize].depth,
        };
        if !self.grammar.fits(node, depth) {
            return None;
        }
        let at = match self.grammar.node(node) {
            Node::Members(_) => At::Member(AtMember::default()),
            Node::Text(_) => At::Text(Place::START),
            Node::Decimal(_) => At::Decimal(Written::START),
            _ => At::Nth(0),
        };
        let depth = depth + self.grammar.nests(node);
        Some(self.intern(Cell {
            node,
            at,
            below,
            depth,
        }))
    }

    fn intern(&mut self, cell: Cell) -> CellId {
        *self.cell_ids.entry(cell).or_insert_with(|| {
            self.cells.push(cell);
            self.cells.len() as CellId - 1
        })
    }

    fn state(&mut self, waiting: Vec<CellId>, complete: bool) -> State {
        let key: (Arc<[CellId]>, bool) = (waiting.into(), complete);
        if let Some(state) = self.state_ids.get(&key) {
            return *state;
        }
        let state = State(self.states.len() as u32);
        self.states.push(key.clone());
        self.state_ids.insert(key, state);
        self.table.resize(self.table.len() + 256, UNKNOWN);
        state
    }
}
