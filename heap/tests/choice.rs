//! Blocks of before and after the choice live side by side, in any thread, of every size and alignment.
//!
//! One test: the choice holds for the whole process.

use std::{
    alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc},
    sync::mpsc,
    thread,
};

#[global_allocator]
static HEAP: mezzo_heap::Heap = mezzo_heap::Heap;

/// A block, filled with one byte from its begin to its end.
struct Block {
    at: *mut u8,
    layout: Layout,
    byte: u8,
}

// SAFETY: it is the only pointer to its memory.
unsafe impl Send for Block {}

impl Block {
    fn new(size: usize, align: usize, byte: u8) -> Self {
        let layout = Layout::from_size_align(size, align).expect("a small power of two");
        // SAFETY: the size is not zero.
        let at = unsafe {
            if byte == 0 {
                alloc_zeroed(layout)
            } else {
                let at = alloc(layout);
                at.write_bytes(byte, size);
                at
            }
        };
        assert!(
            !at.is_null() && at.addr().is_multiple_of(align),
            "{layout:?}"
        );
        Self { at, layout, byte }
    }

    fn is_of_mimalloc(&self) -> bool {
        // SAFETY: it looks the address up, and follows it nowhere.
        unsafe { libmimalloc_sys::mi_is_in_heap_region(self.at.cast_const().cast()) }
    }

    fn check(&self, size: usize) {
        // SAFETY: so much of it is there and written.
        let bytes = unsafe { std::slice::from_raw_parts(self.at, size) };
        assert!(
            bytes.iter().all(|byte| *byte == self.byte),
            "{:?}",
            self.layout
        );
    }

    fn resize(&mut self, size: usize) {
        // SAFETY: it has that layout, and the size is not zero.
        self.at = unsafe { realloc(self.at, self.layout, size) };
        assert!(!self.at.is_null() && self.at.addr().is_multiple_of(self.layout.align()));
        self.check(size.min(self.layout.size()));
        self.layout = Layout::from_size_align(size, self.layout.align()).expect("the same");
        // SAFETY: it is so large now.
        unsafe { self.at.write_bytes(self.byte, size) };
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.check(self.layout.size());
        // SAFETY: it has that layout.
        unsafe { dealloc(self.at, self.layout) };
    }
}

/// From a byte to several MiB, at alignments up to a page.
fn blocks(from: u8) -> Vec<Block> {
    let sizes = [1, 8, 24, 100, 1024, 5000, 70_000, 1 << 20, 9 << 20];
    let aligns = [1, 16, 64, 4096];
    let all = sizes
        .iter()
        .flat_map(|size| aligns.map(|align| (*size, align)));
    all.zip((from..=250).cycle())
        .map(|((size, align), byte)| Block::new(size, align, byte))
        .collect()
}

#[test]
fn blocks_go_back_where_they_came_from() {
    let mut before = blocks(0);
    let (sender, receiver) = mpsc::channel::<Vec<Block>>();
    let other = thread::spawn(move || {
        for mut blocks in receiver {
            for block in &mut blocks {
                block.resize(block.layout.size() * 2);
            }
        }
    });
    sender.send(blocks(7)).expect("it listens");
    mezzo_heap::choose_for_server();
    let mut after = blocks(100);
    for block in before.iter_mut().chain(&mut after) {
        block.resize(block.layout.size() + 3000);
        block.resize(block.layout.size() / 2 + 1);
    }
    assert!(!before.iter().any(Block::is_of_mimalloc));
    assert!(after.iter().all(Block::is_of_mimalloc));
    let (kept, sent) = after.into_iter().partition(|block| block.byte % 2 == 0);
    sender.send(sent).expect("it listens");
    sender.send(before).expect("it listens");
    sender.send(blocks(0)).expect("it listens");
    drop::<Vec<Block>>(kept);
    drop(sender);
    other.join().expect("nothing was found wrong");
}
