//! Gives freed memory back to the system. The allocator of glibc keeps what lies below anything that is still in use,
//! so that a process would stay as large as its largest crowd; other allocators do it by themselves.
#![allow(unsafe_code)]

/// Freed blocks of each small size that glibc keeps for the thread (ld.so(8), `glibc.malloc.tcache_count`).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_PER_SIZE: usize = 7;

/// Gives back all pages that hold nothing (malloc_trim(3)). `blocks` makes one of each small block that a member of
/// the crowd had.
pub(super) fn trim<T>(blocks: impl Fn() -> T) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // What glibc keeps for the thread lies wherever the crowd had it, and each block holds a page. Others, which
        // fill gaps between what is in use, take the place of those: what is freed first is kept.
        let few = || -> [T; KEPT_PER_SIZE] { std::array::from_fn(|_| std::hint::black_box(blocks())) };
        let kept = few();
        drop(few());
        drop(kept);
        // SAFETY: it takes a plain number, touches no memory that is in use, and may be called from any thread.
        unsafe {
            libc::malloc_trim(0);
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = blocks;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays_as_it_is() {
        let kept: Vec<Vec<u8>> = (0..2_000).map(|number| vec![number as u8; 3_000]).collect();
        let (kept, dropped): (Vec<_>, Vec<_>) =
            kept.into_iter().enumerate().partition(|(number, _)| number % 7 == 0);
        drop(dropped);
        trim(|| vec![0_u8; 100]);
        for (number, bytes) in kept {
            assert!(bytes.iter().all(|&byte| byte == number as u8));
        }
    }
}
