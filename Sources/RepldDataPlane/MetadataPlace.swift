/// Where a pair's metadata area is: in a file of its own, or in an element, behind the volume.
package struct MetadataPlace: Hashable, Sendable, CustomStringConvertible {
    /// An absolute path of a file or block device.
    package let path: String
    /// Where the area begins there, in bytes: a multiple of 4096.
    package let offset: UInt64
    /// The element is a volume's as well, so that the area is not to be touched outside its bounds.
    package let isInternal: Bool

    /// A file that has the area and nothing else.
    package init(file path: String) {
        self.path = path
        offset = 0
        isInternal = false
    }

    /// A part of an element.
    package init(element path: String, offset: UInt64) {
        self.path = path
        self.offset = offset
        isInternal = true
    }

    package var description: String { isInternal ? "\(path) at offset \(offset)" : path }
}
