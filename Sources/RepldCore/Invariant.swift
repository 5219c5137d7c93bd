/// Stops the process, with words, when the program contradicts itself.
///
/// Kept in release builds. `precondition` traps without its message in optimised builds, so the data path uses this
/// instead. It is for our own mistakes only: whatever can come from a disk, a socket, a file or an operator is an
/// error, not an invariant.
@inlinable
@inline(__always)
package func invariant(
    _ holds: @autoclosure () -> Bool,
    _ words: StaticString,
    file: StaticString = #fileID,
    line: UInt = #line
) {
    if _slowPath(!holds()) { invariantFailed(words, file: file, line: line) }
}

/// Stops the process with `words`, at a place that cannot be reached unless the program contradicts itself.
@inline(never)
@usableFromInline
package func invariantFailed(_ words: StaticString, file: StaticString = #fileID, line: UInt = #line) -> Never {
    fatalError("invariant broken: \(words)", file: file, line: line)
}
