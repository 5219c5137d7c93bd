// NBD is big-endian on the wire. These are the only places of this module that touch memory without a type.

extension RawSpan {
    /// The big-endian integer at `offset`, checked to lie inside the span.
    @inlinable
    package func loadBigEndian<Value: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as: Value.Type) -> Value {
        unsafe Value(bigEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: Value.self))
    }
}

extension OutputRawSpan {
    /// Appends an integer in big-endian order, checked to fit.
    @inlinable
    @_lifetime(self: copy self)
    package mutating func appendBigEndian<Value: FixedWidthInteger & BitwiseCopyable>(_ value: Value) {
        unsafe append(value.bigEndian, as: Value.self)
    }

    /// Puts an integer in big-endian order over bytes that were appended before.
    @inlinable
    @_lifetime(self: copy self)
    package mutating func replaceBigEndian<Value: FixedWidthInteger & BitwiseCopyable>(
        at offset: Int,
        with value: Value
    ) {
        var written = mutableBytes
        written.storeBytes(of: value.bigEndian, toByteOffset: offset, as: Value.self)
    }

    /// Appends the UTF-8 bytes of `text`.
    @_lifetime(self: copy self)
    package mutating func appendText(_ text: StaticString) {
        text.withUTF8Buffer { bytes in
            for offset in 0..<text.utf8CodeUnitCount { unsafe append(bytes[offset]) }
        }
    }

    /// Appends the UTF-8 bytes of `text`.
    @_lifetime(self: copy self)
    package mutating func appendText(_ text: String) {
        for byte in text.utf8 { append(byte) }
    }
}
