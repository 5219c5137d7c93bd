/// Why the demo could not do what it set out to do, or what it found wrong.
package struct DemoError: Error, Sendable, CustomStringConvertible {
    package let description: String

    init(_ description: String) { self.description = description }
}
