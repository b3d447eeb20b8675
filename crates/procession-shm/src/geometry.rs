//! Where everything lies in the arena: computed from the length of its address range alone, so that
//! each member computes the same.
//!
//! ```text
//! header | members | slots of class 0, 1, .. | planes 0, 1, .. | objects, from `objects` upwards
//! ```
//! All of it is sparse: a page that nobody has touched takes no memory.

/// Objects come in sizes `64 << class`.
pub(crate) const CLASSES: usize = 34;
/// The smallest object, and the alignment of all below a page.
pub(crate) const SMALLEST: usize = 64;
/// Members per plane of reference bits: one word.
pub(crate) const PLANE: usize = 64;
/// Members at most, dead ones that are not yet cleared away included.
pub(crate) const MEMBERS: usize = 4096;
/// Planes of reference bits.
pub(crate) const PLANES: usize = MEMBERS / PLANE;
/// Bytes of the header.
pub(crate) const HEADER: usize = 8192;
/// Bytes of a member's entry.
pub(crate) const MEMBER: usize = 512;
/// Bytes of a slot.
pub(crate) const SLOT: usize = 64;
/// Tables begin at multiples of this, and memory is counted in it. A page of the system may be larger.
pub(crate) const PAGE: usize = 4096;
/// Classes up to this one (4 KiB) have more slots: locks are many, large blocks few.
const SMALL_CLASSES: usize = 7;

/// Where the tables of an arena lie.
#[derive(Debug, Clone)]
pub(crate) struct Geometry {
    pub(crate) reserve: usize,
    pub(crate) members: usize,
    /// First slot of each class.
    pub(crate) slots: [usize; CLASSES],
    /// Number of slots of each class.
    pub(crate) capacity: [u32; CLASSES],
    /// Slots of all classes before each class: the bit of a slot in its plane.
    pub(crate) before: [usize; CLASSES],
    pub(crate) planes: usize,
    /// Bytes of one plane.
    pub(crate) plane_bytes: usize,
    /// Where objects begin.
    pub(crate) objects: usize,
}

impl Geometry {
    /// `reserve` is a multiple of a page and at least [`Geometry::LEAST`].
    pub(crate) fn new(reserve: usize) -> Geometry {
        // An eighth of the range for tables, split evenly, small classes counting four times.
        let unit =
            reserve / 8 / (SMALL_CLASSES * 4 + (CLASSES - SMALL_CLASSES)) / (SLOT + 8 * PLANES);
        let members = HEADER;
        let mut at = members + MEMBER * MEMBERS;
        let mut slots = [0; CLASSES];
        let mut capacity = [0; CLASSES];
        let mut before = [0; CLASSES];
        let mut total = 0;
        for class in 0..CLASSES {
            let share = if class < SMALL_CLASSES {
                unit * 4
            } else {
                unit
            };
            let count = share.clamp(8, 1 << 20).min(reserve / class_size(class));
            slots[class] = at;
            // At most 2^20 by the clamp.
            capacity[class] = count as u32;
            before[class] = total;
            total += count;
            at += (count * SLOT).next_multiple_of(PAGE);
        }
        let planes = at;
        // One word per slot and plane.
        let plane_bytes = (total * 8).next_multiple_of(PAGE);
        let objects = planes + plane_bytes * PLANES;
        Geometry {
            reserve,
            members,
            slots,
            capacity,
            before,
            planes,
            plane_bytes,
            objects,
        }
    }

    /// The smallest range in which the tables leave room for objects.
    pub(crate) const LEAST: usize = 8 << 20;
}

/// Bytes of an object of this class.
pub(crate) fn class_size(class: usize) -> usize {
    SMALLEST << class
}

/// The class for an object of `length` bytes, or `None` if there is none that large.
pub(crate) fn class_for(length: usize) -> Option<usize> {
    let class = length
        .max(SMALLEST)
        .checked_next_power_of_two()?
        .trailing_zeros() as usize
        - SMALLEST.trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_leaves_most_of_itself_to_objects() {
        for shift in 23..=36 {
            let geometry = Geometry::new(1 << shift);
            assert!(
                geometry.objects < (1 << shift) / 2,
                "2^{shift}: tables end at {:#x}",
                geometry.objects
            );
        }
    }

    #[test]
    fn an_object_fits_its_class_and_not_the_one_below() {
        for length in [0, 1, 64, 65, 4096, 4097, 100_000_000] {
            let class = class_for(length).expect("fits");
            assert!(class_size(class) >= length);
            assert!(class == 0 || class_size(class - 1) < length);
        }
        assert_eq!(class_for(usize::MAX), None);
    }
}
