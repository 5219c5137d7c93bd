/// A first-in first-out queue of fixed capacity that allocates nothing after it is made.
@usableFromInline
package struct BoundedQueue<Element: BitwiseCopyable>: ~Copyable {
    @usableFromInline
    var ring: FixedArray<Element>
    @usableFromInline
    var head = 0
    @usableFromInline
    package internal(set) var count = 0

    /// Makes an empty queue; `blank` fills the places that hold nothing.
    @inlinable
    package init(capacity: Int, blank: Element) {
        invariant(capacity > 0, "a queue holds at least one element")
        ring = FixedArray(repeating: blank, count: capacity)
    }

    @inlinable
    package var capacity: Int { ring.count }
    @inlinable
    package var isEmpty: Bool { count == 0 }
    @inlinable
    package var isFull: Bool { count == ring.count }

    /// Adds at the end.
    ///
    /// Whoever fills a queue has bounded what goes into it: overflow is a programming error.
    @inlinable
    package mutating func append(_ element: Element) {
        invariant(count < ring.count, "a bounded queue is sized for all that can be in it at once")
        var place = head + count
        if place >= ring.count { place -= ring.count }
        ring[place] = element
        count += 1
    }

    /// Removes the oldest element; `nil` when the queue is empty.
    @inlinable
    package mutating func popFirst() -> Element? {
        guard count > 0 else { return nil }
        let element = ring[head]
        head += 1
        if head == ring.count { head = 0 }
        count -= 1
        return element
    }

    /// The element `position` places behind the oldest.
    @inlinable
    package subscript(_ position: Int) -> Element {
        invariant(position >= 0 && position < count, "a position lies inside the queue")
        var place = head + position
        if place >= ring.count { place -= ring.count }
        return ring[place]
    }

    /// Puts another element in the place `position` behind the oldest.
    @inlinable
    package mutating func replace(at position: Int, with element: Element) {
        invariant(position >= 0 && position < count, "a position lies inside the queue")
        var place = head + position
        if place >= ring.count { place -= ring.count }
        ring[place] = element
    }

    /// The oldest element; `nil` when the queue is empty.
    @inlinable
    package var first: Element? { count > 0 ? ring[head] : nil }

    @inlinable
    package mutating func removeAll() {
        head = 0
        count = 0
    }
}
