//! What a client says that comes back on a new connection, while the one of its link is silent.
//!
//! Frames may have been lost either way. So it says again all that it asks for, right behind its Hello, under the same
//! numbers: what is not among that is asked for no more. Each gets an answer. Outstanding pings and tickets are
//! forgotten. A server that does not know the link any more takes the Hello as any other, and its Welcome names another
//! link.

use super::handshake::KeyId;
use super::{Fields, extension};

/// A link that is to go on with the new connection in the place of the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumes {
    /// The link, as its Welcome named it.
    pub link: KeyId,
    /// So many Publish frames follow at once: all that its client asks for.
    pub publications: u32,
}

/// The extension of Hello that has it: 20 bytes. It is left out where no link is to go on.
const RESUMES: u16 = 1;

pub(super) fn put_resumes(out: &mut Vec<u8>, resumes: Option<Resumes>) {
    let Some(Resumes { link, publications }) = resumes else { return };
    out.extend(RESUMES.to_be_bytes());
    out.extend(20u16.to_be_bytes());
    out.extend(link);
    out.extend(publications.to_be_bytes());
}

/// Reads extensions to the end of the frame; those that this version does not know are skipped.
pub(super) fn resumes(fields: &mut Fields) -> Option<Option<Resumes>> {
    let mut resumes = None;
    while let Some((kind, bytes)) = extension(fields)? {
        if kind == RESUMES {
            let mut fields = Fields(bytes);
            resumes = Some(Resumes { link: fields.array()?, publications: fields.u32()? });
        }
    }
    Some(resumes)
}
