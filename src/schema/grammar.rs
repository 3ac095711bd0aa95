//! A grammar of bytes: what a schema becomes, and what [`super::machine`] runs.
//!
//! ```text
//! Bytes       these bytes, in a row
//! OneOf       one byte of a set
//! Seq, Alt    one behind the other; one of them
//! List        pieces in a row, between two bounds, with something between them
//! Members     pieces of which each comes at most once, in their order, then any number of another piece
//! Text        characters that an automaton accepts
//! Decimal     a number in a range
//! ```
//!
//! Nodes refer to each other by number, so that a schema may contain itself. A list or an object that counts for depth
//! `nests`; for each node the least depth that it needs is known, and a machine goes into no node that does not fit into
//! what is left. That is why no state is a dead end.

use super::decimal::Decimal;
use super::text::Text;
use crate::error::{Error, Result};

/// Names a node.
pub type NodeId = u32;

/// The deepest nesting of an answer, unless a schema needs more.
const DEPTH: u8 = 32;

/// The deepest nesting that a schema may need; parsers take no more.
const MAX_DEPTH: u8 = 64;

/// The most nodes of a grammar.
const MAX_NODES: usize = 1 << 16;

/// The depth of what no text fits.
const NEVER: u8 = u8::MAX;

/// Stands for no upper bound.
pub const UNBOUNDED: u32 = u32::MAX;

/// A rule.
#[derive(Clone, Debug)]
pub enum Node {
    /// These bytes, in a row; perhaps none.
    Bytes(Box<[u8]>),
    /// One of these bytes: a bit each.
    OneOf([u64; 4]),
    /// One behind the other.
    Seq(Vec<NodeId>),
    /// One of them; none fits nothing.
    Alt(Vec<NodeId>),
    /// See [`List`].
    List(List),
    /// See [`Members`].
    Members(Members),
    /// Characters.
    Text(Text),
    /// A number.
    Decimal(Decimal),
}

/// What stands around and between pieces.
#[derive(Clone, Copy, Debug)]
pub struct Between {
    /// In front of the first.
    pub start: NodeId,
    /// Between two of them.
    pub separator: NodeId,
    /// Behind the last.
    pub end: NodeId,
    /// Where there is none.
    pub empty: NodeId,
}

impl Between {
    /// What stands in front of a piece behind `n` others.
    pub fn before(&self, n: u32) -> NodeId {
        match n {
            0 => self.start,
            _ => self.separator,
        }
    }
}

/// Pieces in a row.
#[derive(Clone, Debug)]
pub struct List {
    /// The first ones.
    pub first: Vec<NodeId>,
    /// All that follow; none follow without.
    pub rest: Option<NodeId>,
    /// How many there are at least.
    pub min: u32,
    /// And at most.
    pub max: u32,
    /// What stands between.
    pub between: Between,
    /// Whether it counts for depth.
    pub nests: bool,
}

impl List {
    /// The piece number `n`, if one may stand there.
    pub fn piece(&self, n: u32) -> Option<NodeId> {
        let piece = self.first.get(n as usize).copied().or(self.rest);
        piece.filter(|_| n < self.max)
    }

    /// A number of pieces behind which the same may follow as behind `n`.
    pub fn same(&self, n: u32) -> u32 {
        match self.max {
            UNBOUNDED => n.min(self.min.max(self.first.len() as u32).max(1)),
            _ => n,
        }
    }
}

/// A piece that comes at most once.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The piece.
    pub node: NodeId,
    /// Whether it must come.
    pub required: bool,
}

/// Pieces each at most once, in their order, then any number of extra ones.
#[derive(Clone, Debug)]
pub struct Members {
    /// Those that come once.
    pub members: Vec<Member>,
    /// What may follow them, as often as `max` allows.
    pub extra: Option<NodeId>,
    /// How many there are at least; all extra ones together count as one, since their names may be the same.
    pub min: u32,
    /// And at most.
    pub max: u32,
    /// What stands between.
    pub between: Between,
}

impl Members {
    /// A count that has the same future as `n`.
    pub fn same(&self, n: u32) -> u32 {
        match self.max {
            UNBOUNDED => n.min(self.min.max(1)),
            _ => n,
        }
    }
}

/// A set of nodes, complete.
#[derive(Clone, Debug)]
pub struct Grammar {
    nodes: Vec<Node>,
    /// The least depth that each node needs.
    depths: Vec<u8>,
    root: NodeId,
    /// The deepest nesting of this grammar's texts.
    max_depth: u8,
}

impl Grammar {
    /// The node of a number.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// Where a text begins.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// Whether a node fits in below `depth` levels.
    pub fn fits(&self, id: NodeId, depth: u8) -> bool {
        let least = self.depths[id as usize];
        least != NEVER && depth.saturating_add(least) <= self.max_depth
    }

    /// How much deeper the pieces of a node stand than it.
    pub fn nests(&self, id: NodeId) -> u8 {
        nests(self.node(id))
    }

    /// How many members from number `from` on fit in at `depth`, the extra ones together counting as one.
    pub fn available(&self, members: &Members, from: usize, depth: u8) -> u32 {
        let rest = members.members.get(from..).unwrap_or_default();
        let fitting = rest.iter().filter(|member| self.fits(member.node, depth));
        let extra = members.extra.filter(|extra| self.fits(*extra, depth));
        fitting.count() as u32 + u32::from(extra.is_some())
    }
}

fn nests(node: &Node) -> u8 {
    match node {
        Node::List(list) => u8::from(list.nests),
        Node::Members(_) => 1,
        _ => 0,
    }
}

/// A grammar that is being made.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    nodes: Vec<Node>,
}

impl Builder {
    /// A new node.
    ///
    /// Errors: `Limit` when there are too many.
    pub fn add(&mut self, node: Node) -> Result<NodeId> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Error::limit("rules of a schema", MAX_NODES + 1, MAX_NODES));
        }
        self.nodes.push(node);
        Ok(self.nodes.len() as NodeId - 1)
    }

    /// A node to which others refer before it is known.
    pub fn reserve(&mut self) -> Result<NodeId> {
        self.add(Node::Alt(Vec::new()))
    }

    /// Makes a reserved node known.
    pub fn set(&mut self, id: NodeId, node: Node) {
        self.nodes[id as usize] = node;
    }

    /// These bytes.
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) -> Result<NodeId> {
        self.add(Node::Bytes(bytes.as_ref().into()))
    }

    /// One of these bytes.
    pub fn one_of(&mut self, bytes: &[u8]) -> Result<NodeId> {
        let mut set = [0; 4];
        for byte in bytes {
            set[usize::from(*byte) / 64] |= 1 << (byte % 64);
        }
        self.add(Node::OneOf(set))
    }

    /// One behind the other.
    pub fn seq(&mut self, nodes: impl Into<Vec<NodeId>>) -> Result<NodeId> {
        self.add(Node::Seq(nodes.into()))
    }

    /// One of them.
    pub fn alt(&mut self, nodes: impl Into<Vec<NodeId>>) -> Result<NodeId> {
        let nodes = nodes.into();
        match nodes[..] {
            [only] => Ok(only),
            _ => self.add(Node::Alt(nodes)),
        }
    }

    /// It, or nothing.
    pub fn optional(&mut self, node: NodeId) -> Result<NodeId> {
        let nothing = self.bytes([])?;
        self.alt([nothing, node])
    }

    /// A piece from `min` to `max` times, nothing between.
    pub fn repeat(&mut self, piece: NodeId, min: u32, max: u32) -> Result<NodeId> {
        let nothing = self.bytes([])?;
        self.add(Node::List(List {
            first: Vec::new(),
            rest: Some(piece),
            min,
            max,
            between: Between {
                start: nothing,
                separator: nothing,
                end: nothing,
                empty: nothing,
            },
            nests: false,
        }))
    }

    /// The grammar that begins with `root`.
    ///
    /// Errors: `Format` when no text fits; `Limit` when each nests too deep.
    pub fn finish(self, root: NodeId) -> Result<Grammar> {
        let depths = least_depths(&self.nodes);
        let least = depths[root as usize];
        if least == NEVER {
            return Err(Error::format("no value fits the schema"));
        }
        if least > MAX_DEPTH {
            return Err(Error::limit("depth that a schema needs", least, MAX_DEPTH));
        }
        Ok(Grammar {
            nodes: self.nodes,
            depths,
            root,
            max_depth: least.max(DEPTH),
        })
    }
}

/// The least fixed point, from above: a pass for each level of nesting.
fn least_depths(nodes: &[Node]) -> Vec<u8> {
    let mut depths = vec![NEVER; nodes.len()];
    loop {
        let mut changed = false;
        // Most nodes refer to those added before them.
        for (id, node) in nodes.iter().enumerate() {
            let depth = least_depth(node, &depths);
            changed |= depth < depths[id];
            depths[id] = depth.min(depths[id]);
        }
        if !changed {
            return depths;
        }
    }
}

fn least_depth(node: &Node, depths: &[u8]) -> u8 {
    let of = |id: &NodeId| depths[*id as usize];
    let most = |ids: &mut dyn Iterator<Item = u8>| ids.max().unwrap_or(0);
    match node {
        Node::Bytes(_) | Node::OneOf(_) => 0,
        Node::Text(text) if text.is_empty() => NEVER,
        Node::Decimal(decimal) if decimal.is_empty() => NEVER,
        Node::Text(_) | Node::Decimal(_) => 0,
        Node::Seq(all) => most(&mut all.iter().map(of)),
        Node::Alt(any) => any.iter().map(of).min().unwrap_or(NEVER),
        Node::List(list) => {
            // Behind the first ones all are the same.
            let n = list.min.min(list.first.len() as u32 + 1);
            let pieces = (0..n).map(|i| list.piece(i).map_or(NEVER, |id| of(&id)));
            let deepest = most(&mut pieces.chain([0]));
            match list.min > list.max || list.rest.is_none() && list.min > list.first.len() as u32 {
                true => NEVER,
                false => deepest.saturating_add(u8::from(list.nests)),
            }
        }
        Node::Members(members) => {
            let (required, optional): (Vec<&Member>, Vec<&Member>) =
                members.members.iter().partition(|member| member.required);
            let mut least = most(&mut required.iter().map(|member| of(&member.node)));
            let missing = (members.min as usize).saturating_sub(required.len());
            let mut others: Vec<u8> = optional.iter().map(|member| of(&member.node)).collect();
            others.extend(members.extra.iter().map(of));
            others.sort_unstable();
            if missing > 0 {
                least = least.max(others.get(missing - 1).copied().unwrap_or(NEVER));
            }
            match required.len() as u32 > members.max || members.min > members.max {
                true => NEVER,
                false => least.saturating_add(1),
            }
        }
    }
}
