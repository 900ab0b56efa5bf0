//! Hands each call on to one of the two allocators: what is new to the one that was chosen, what is there to the one that
//! it came from.

#![expect(unsafe_code, reason = "the one place for it; see the house style")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, Ordering},
};

use libmimalloc_sys::{
    mi_free, mi_is_in_heap_region, mi_malloc_aligned, mi_realloc_aligned, mi_zalloc_aligned,
};

/// Only ever set. Who frees or grows a block of mimalloc's has been handed it by a thread that saw the flag set, and so sees
/// it, too: no order beside that is needed.
static FOR_SERVER: AtomicBool = AtomicBool::new(false);

pub(crate) fn choose() {
    FOR_SERVER.store(true, Ordering::Relaxed);
}

/// See the crate. To be the `#[global_allocator]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heap;

#[inline]
fn for_server() -> bool {
    FOR_SERVER.load(Ordering::Relaxed)
}

/// Whether mimalloc gave out that block. Without it no block can be of it, and nothing of it is touched.
#[inline]
fn is_of_server(block: *mut u8) -> bool {
    // SAFETY: it looks the address up in mimalloc's map of its own pages, and follows it nowhere.
    for_server() && unsafe { mi_is_in_heap_region(block.cast_const().cast()) }
}

// SAFETY: each block is made, changed and freed by one allocator alone, which meets the contract: `System` by its own
// implementation, mimalloc by that of its functions, which give null or a block of that size and alignment (a power of
// two, as `Layout` has it) and keep the contents of a block that grows or shrinks. Neither unwinds.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if for_server() {
            // SAFETY: any size and a power of two are allowed.
            unsafe { mi_malloc_aligned(layout.size(), layout.align()).cast() }
        } else {
            // SAFETY: the caller's contract is the same.
            unsafe { System.alloc(layout) }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if for_server() {
            // SAFETY: as in `alloc`.
            unsafe { mi_zalloc_aligned(layout.size(), layout.align()).cast() }
        } else {
            // SAFETY: the caller's contract is the same.
            unsafe { System.alloc_zeroed(layout) }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_of_server(block) {
            // SAFETY: mimalloc gave it out, and the caller gives it back once.
            unsafe { mi_free(block.cast()) }
        } else {
            // SAFETY: it is `System`'s, with that layout.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_of_server(block) {
            // SAFETY: mimalloc gave it out, with that alignment.
            unsafe { mi_realloc_aligned(block.cast(), size, layout.align()).cast() }
        } else {
            // SAFETY: it is `System`'s, with that layout.
            unsafe { System.realloc(block, layout, size) }
        }
    }
}
