//! A message as one object: its bytes, the blocks that belong to it, the objects it mentions.
//!
//! ```text
//! tag | number of blocks | number of mentions | bytes inline || blocks .. | mentions .. || bytes ..
//! ```
//! A block is noted in the parcel before it is claimed for it, and claimed before its maker lets go:
//! whenever the maker dies, taking the parcel apart finds every block. A mentioned object is counted
//! before it is noted: a death in between leaves it alive for the life of the family, never gone too
//! early.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::{AllocError, Arena, Descent, Gone};
use crate::crash::crash_point;
use crate::handle::{Handle, Kind};
use crate::member::MemberId;

const HEADER: usize = 32;
const WORD: usize = size_of::<u64>();

/// What goes into a parcel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Contents<'a> {
    /// For the receiver to tell what it is.
    pub tag: u32,
    /// The message.
    pub bytes: &'a [u8],
    /// Large buffers; each is copied once, into a block of its own.
    pub buffers: &'a [&'a [u8]],
    /// Objects of the arena that the bytes mention, kept alive until the parcel is gone.
    pub mentions: &'a [Handle],
}

/// What is in a parcel, the blocks by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParcelView {
    /// For the receiver to tell what it is.
    pub tag: u32,
    /// The message.
    pub bytes: Vec<u8>,
    /// The blocks that belong to it.
    pub blocks: Vec<Handle>,
    /// The objects that it mentions.
    pub mentions: Vec<Handle>,
}

struct Shape {
    tag: u32,
    blocks: usize,
    mentions: usize,
    bytes: usize,
}

fn shape(arena: &Arena, parcel: Handle) -> Result<Shape, Gone> {
    let gone = Gone {
        expected: Some(Kind::Parcel),
    };
    let header: &[AtomicU64] = arena.objects(parcel, Kind::Parcel, 0, HEADER / WORD)?;
    let number = |at: usize| usize::try_from(header[at].load(Ordering::Acquire)).map_err(|_| gone);
    let shape = Shape {
        tag: number(0)? as u32,
        blocks: number(1)?,
        mentions: number(2)?,
        bytes: number(3)?,
    };
    let entries = shape
        .blocks
        .checked_add(shape.mentions)
        .and_then(|count| count.checked_mul(WORD))
        .ok_or(gone)?;
    let total = entries
        .checked_add(HEADER)
        .and_then(|sum| sum.checked_add(shape.bytes))
        .ok_or(gone)?;
    if total > arena.length(parcel)? {
        Err(gone)
    } else {
        Ok(shape)
    }
}

impl Arena {
    /// Stores a message; `me` holds the reference.
    ///
    /// # Errors
    /// When there is no memory; nothing is left behind.
    pub fn write_parcel(
        &self,
        me: MemberId,
        contents: &Contents<'_>,
    ) -> Result<Handle, AllocError> {
        let entries = contents.buffers.len() + contents.mentions.len();
        let body = HEADER + entries * WORD;
        let parcel =
            self.allocate_zeroed_to(me, body + contents.bytes.len(), Kind::Parcel, body)?;
        let written = self.fill_parcel(me, parcel, contents);
        if written.is_err() {
            self.release(me, parcel);
        }
        written.map(|()| parcel)
    }

    fn fill_parcel(
        &self,
        me: MemberId,
        parcel: Handle,
        contents: &Contents<'_>,
    ) -> Result<(), AllocError> {
        let lost = AllocError::Memory {
            asked: contents.bytes.len(),
        };
        let entries = contents.buffers.len() + contents.mentions.len();
        let words: &[AtomicU64] = self
            .objects(parcel, Kind::Parcel, 0, HEADER / WORD + entries)
            .map_err(|_| lost)?;
        let (header, entries) = words.split_at(HEADER / WORD);
        let (blocks, mentions) = entries.split_at(contents.buffers.len());
        header[0].store(u64::from(contents.tag), Ordering::Relaxed);
        header[1].store(contents.buffers.len() as u64, Ordering::Relaxed);
        header[2].store(contents.mentions.len() as u64, Ordering::Relaxed);
        header[3].store(contents.bytes.len() as u64, Ordering::Release);
        for (entry, buffer) in blocks.iter().zip(contents.buffers) {
            let block = self.allocate_zeroed_to(me, buffer.len(), Kind::Block, 0)?;
            crash_point!("parcel: block made");
            entry.store(block.to_word(), Ordering::SeqCst);
            crash_point!("parcel: block noted");
            self.claim(block, parcel, 0);
            crash_point!("parcel: block claimed");
            self.copy_in(block, Kind::Block, 0, buffer)
                .map_err(|_| lost)?;
            self.release(me, block);
        }
        for (entry, mention) in mentions.iter().zip(contents.mentions) {
            // One that is gone, though the caller was to hold it, is not counted on another's account.
            if self.set_out(*mention) {
                crash_point!("parcel: mention counted");
                entry.store(mention.to_word(), Ordering::SeqCst);
                crash_point!("parcel: mention noted");
            }
        }
        let body = words.len() * WORD;
        self.copy_in(parcel, Kind::Parcel, body, contents.bytes)
            .map_err(|_| lost)
    }

    /// Reads a parcel that the caller holds a reference to, or whose container it has locked.
    ///
    /// # Errors
    /// When it is gone or garbled.
    pub fn read_parcel(&self, parcel: Handle) -> Result<ParcelView, Gone> {
        let shape = shape(self, parcel)?;
        let words: &[AtomicU64] =
            self.objects(parcel, Kind::Parcel, HEADER, shape.blocks + shape.mentions)?;
        let (blocks, mentions) = words.split_at(shape.blocks);
        let name = |word| self.handle_from_word(word).ok_or(Gone { expected: None });
        let blocks = blocks
            .iter()
            .map(|word| name(word.load(Ordering::SeqCst)))
            .collect::<Result<_, _>>()?;
        let mentions = mentions
            .iter()
            .map(|word| word.load(Ordering::SeqCst))
            .filter(|&word| word != 0)
            .map(name)
            .collect::<Result<_, _>>()?;
        let mut bytes = vec![0; shape.bytes];
        self.copy_out(
            parcel,
            Kind::Parcel,
            HEADER + words.len() * WORD,
            &mut bytes,
        )?;
        Ok(ParcelView {
            tag: shape.tag,
            bytes,
            blocks,
            mentions,
        })
    }
}

/// Lets go of all that a parcel held. Can be done again after a death half-way.
pub(crate) fn take_apart(arena: &Arena, me: MemberId, parcel: Handle, descent: &mut Descent) {
    let Ok(shape) = shape(arena, parcel) else {
        return;
    };
    let Ok(words) =
        arena.objects::<AtomicU64>(parcel, Kind::Parcel, HEADER, shape.blocks + shape.mentions)
    else {
        return;
    };
    let (blocks, mentions) = words.split_at(shape.blocks);
    for block in blocks {
        if let Some(block) = arena.handle_from_word(block.load(Ordering::SeqCst)) {
            arena.disown(me, block, parcel, descent);
            crash_point!("parcel: block disowned");
        }
    }
    for mention in mentions {
        if let Some(mention) = arena.handle_from_word(mention.swap(0, Ordering::SeqCst)) {
            crash_point!("parcel: mention taken back");
            arena.arrive_in(me, mention, descent);
        }
    }
}
