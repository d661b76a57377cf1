//! Gives freed memory back to the system. The allocator of glibc keeps what lies below anything that is still in use,
//! so that a process would stay as large as its largest crowd; other allocators do it by themselves.
#![allow(unsafe_code)]

/// Gives back all pages that hold nothing (malloc_trim(3)).
pub(super) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes a plain number, touches no memory that is in use, and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
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
        trim();
        for (number, bytes) in kept {
            assert!(bytes.iter().all(|&byte| byte == number as u8));
        }
    }
}
