//! Functions that the C library runs around every `fork`, whoever calls it.

use std::io;

/// Has `before` run in the forking thread before each fork, `parent` and `child` after it.
///
/// In the child only the forking thread exists: the hooks must not wait for anything that another
/// thread was to give. They can't be taken back.
///
/// # Errors
/// When the C library has no memory left for the registration.
pub fn register(
    before: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
) -> io::Result<()> {
    // SAFETY: the three are plain functions that live as long as the program.
    let result = unsafe { libc::pthread_atfork(Some(before), Some(parent), Some(child)) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}
