/// A table of a fixed number of elements behind one allocation, owned by one struct.
///
/// It exists because the engine's tables must cost nothing to own: it is never shared (so no uniqueness check), never
/// grows, never copies, keeps its owner small, and is not held by a class (so no exclusivity check). Elements may be
/// noncopyable. Every access is checked, in release builds too.
@safe
@usableFromInline
package struct FixedArray<Element: ~Copyable>: ~Copyable {
    @usableFromInline
    let base: UnsafeMutablePointer<Element>
    @usableFromInline
    package let count: Int

    /// Makes a table whose element `index` is `make(index)`.
    @inlinable
    package init(count: Int, make: (Int) -> Element) {
        invariant(count >= 0, "a table has no negative size")
        unsafe base = UnsafeMutablePointer<Element>.allocate(capacity: count)
        self.count = count
        for index in 0..<count { unsafe (base + index).initialize(to: make(index)) }
    }

    @inlinable
    deinit {
        unsafe base.deinitialize(count: count)
        unsafe base.deallocate()
    }

    @inlinable
    package subscript(_ index: Int) -> Element {
        @inline(__always)
        unsafeAddress {
            invariant(index >= 0 && index < count, "an index lies inside its table")
            return unsafe UnsafePointer(base + index)
        }
        @inline(__always)
        unsafeMutableAddress {
            invariant(index >= 0 && index < count, "an index lies inside its table")
            return unsafe base + index
        }
    }
}

extension FixedArray where Element: BitwiseCopyable {
    /// Makes a table of `count` times the same value.
    @inlinable
    package init(repeating value: Element, count: Int) {
        self.init(count: count) { _ in value }
    }
}

extension FixedArray: @unchecked Sendable where Element: Sendable & ~Copyable {}
