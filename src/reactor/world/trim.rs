//! Gives freed memory back to the system. The allocator of glibc keeps what lies below anything that is still in use,
//! so that a process would stay as large as its largest burst made it. Other allocators give memory back by themselves.
#![allow(unsafe_code)]

/// Gives back all pages that hold nothing (malloc_trim(3)).
pub(in crate::reactor) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        return_kept_blocks();
        // SAFETY: it takes a plain number, touches no memory that is in use, and may be called from any thread.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

/// glibc keeps some freed blocks of each small size for the thread (ld.so(8), `glibc.malloc.tcache_count`). They lie
/// wherever the burst had put them, and each keeps a page in use. So all of them are taken out and freed by a thread
/// that ends: what is kept for that thread is given back when it ends.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn return_kept_blocks() {
    const KEPT_PER_SIZE: usize = 7;
    const SMALLEST: usize = 24;
    const LARGEST: usize = 1032;
    let sizes = || (SMALLEST..=LARGEST).step_by(16);
    let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(KEPT_PER_SIZE * sizes().count());
    for _ in 0..KEPT_PER_SIZE {
        blocks.extend(sizes().map(|bytes| std::hint::black_box(Vec::with_capacity(bytes))));
    }
    // Without a thread the blocks are kept again, which does no harm.
    if let Ok(thread) = super::thread::start("trim", THREAD_STACK_BYTES, move || drop(blocks)) {
        let _ = thread.join();
    }
}

/// More stack than freeing needs.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const THREAD_STACK_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays_as_it_is() {
        let kept: Vec<Vec<u8>> = (0..2_000).map(|number| vec![number as u8; 3_000]).collect();
        let (kept, dropped): (Vec<_>, Vec<_>) =
            kept.into_iter().enumerate().partition(|(number, _)| number % 7 == 0);
        drop(dropped);
        trim();
        for (number, bytes) in kept {
            assert!(bytes.iter().all(|&byte| byte == number as u8));
        }
    }
}
