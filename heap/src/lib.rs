//! The allocator of mezzo's programs: the C library's, until a process asks for one that is made for servers.
//!
//! All servers are one program, and it has one allocator; but they want different ones. A master makes and drops small things
//! by the million, and with mimalloc it takes a quarter less of the processor to take over a cluster. The processes of a node
//! are forked, thousands of them, and each page that one of them touches is a page of its own: there mimalloc would cost
//! half as much memory again for each container (figures: docs/benchmarks.md). So the choice is made while the program
//! runs, once, by the process that knows what it is; those that do not choose pay a look at one flag.
//!
//! ```
//! #[global_allocator]
//! static HEAP: mezzo_heap::Heap = mezzo_heap::Heap;
//!
//! mezzo_heap::choose_for_server();
//! let from_mimalloc = vec![0; 1000];
//! # assert_eq!(from_mimalloc.len(), 1000);
//! ```

#![deny(unsafe_code)]

mod sys;

pub use sys::Heap;

/// From here on this process takes memory from mimalloc, in pages of the usual size: of huge ones, which mimalloc asks for,
/// a server with many small things would hold more than it needs. What it took before stays where it is, and goes back there.
pub fn choose_for_server() {
    // Where the kernel has no huge pages there is nothing to switch off.
    let _ = nix::sys::prctl::set_thp_disable(true);
    sys::choose();
}
