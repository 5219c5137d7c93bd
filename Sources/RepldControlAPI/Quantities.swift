/// Why a quantity could not be read.
package struct QuantityRefusal: Error, Hashable, Sendable, CustomStringConvertible {
    package let found: String
    package let expected: String

    package var description: String { "found '\(found)', expected \(expected)" }
}

/// Sizes as people write and read them.
///
/// Units are binary: `64KiB`, `64K` and `65536` are the same.
package enum ByteCount {
    package static var expectation: String { "a size such as 65536, 64KiB, 1MiB or 10GiB" }

    /// Reads a whole number with an optional unit.
    package static func parse(_ text: String) throws(QuantityRefusal) -> UInt64 {
        let refusal = QuantityRefusal(found: text, expected: expectation)
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard let number = UInt64(digits), let shift = shift(of: unit(of: text, after: digits)) else { throw refusal }
        guard number <= UInt64.max >> UInt64(shift) else {
            throw QuantityRefusal(found: text, expected: "a size below 16EiB")
        }
        return number << UInt64(shift)
    }

    /// The size with at most one decimal in the largest unit that it fills: `1.5GiB`, `64KiB`, `512B`.
    package static func format(_ count: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var index = 0
        while index + 1 < units.count, count >> UInt64(10 * (index + 1)) > 0 { index += 1 }
        let unit: UInt64 = 1 << UInt64(10 * index)
        let (whole, rest) = count.quotientAndRemainder(dividingBy: unit)
        let tenth = (rest * 10) >> UInt64(10 * index)
        return tenth == 0 ? "\(whole)\(units[index])" : "\(whole).\(tenth)\(units[index])"
    }

    private static func shift(of unit: String) -> Int? {
        switch unit {
        case "", "b": 0
        case "k", "kib": 10
        case "m", "mib": 20
        case "g", "gib": 30
        case "t", "tib": 40
        case "p", "pib": 50
        default: nil
        }
    }
}

/// Durations as people write and read them.
package enum DurationText {
    package static var expectation: String { "a duration such as 500ms, 30s, 5m or 2h" }

    /// Reads a whole number with a unit.
    package static func parse(_ text: String) throws(QuantityRefusal) -> Duration {
        let refusal = QuantityRefusal(found: text, expected: expectation)
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard let number = Int64(digits), let milliseconds = milliseconds(of: unit(of: text, after: digits)) else {
            throw refusal
        }
        let (total, isTooLong) = number.multipliedReportingOverflow(by: milliseconds)
        guard !isTooLong, total <= 1000 * 86400 * 366 else {
            throw QuantityRefusal(found: text, expected: "a duration of at most a year")
        }
        return .milliseconds(total)
    }

    /// The time left on something: `7s`, `3m 20s`, `2h 5m`.
    package static func format(seconds: UInt64) -> String {
        switch seconds {
        case 0..<60: "\(seconds)s"
        case 60..<3600: "\(seconds / 60)m \(seconds % 60)s"
        case 3600..<172_800: "\(seconds / 3600)h \(seconds % 3600 / 60)m"
        default: "\(seconds / 86400)d \(seconds % 86400 / 3600)h"
        }
    }

    private static func milliseconds(of unit: String) -> Int64? {
        switch unit {
        case "ms": 1
        case "s": 1000
        case "m", "min": 60_000
        case "h": 3_600_000
        default: nil
        }
    }
}

/// Ages of data as people read them: tenths of a second count while there are few.
package enum SecondsText {
    /// The seconds with at most one decimal below a minute: `0 s`, `0.4 s`, `12.1 s`; as `DurationText` has it from there on.
    package static func format(_ seconds: Double) -> String {
        let tenths = UInt64((max(seconds, 0) * 10).rounded(.up))
        guard tenths < 600 else { return DurationText.format(seconds: tenths / 10) }
        return tenths % 10 == 0 ? "\(tenths / 10) s" : "\(tenths / 10).\(tenths % 10) s"
    }
}

/// What follows the digits, without space between and in lower case.
private func unit(of text: String, after digits: Substring) -> String {
    text[digits.endIndex...].drop { $0 == " " }.lowercased()
}

/// Names of volumes and pairs: 1 to 64 letters, digits, dots, dashes and underscores of ASCII, the first no dot or dash.
package enum ObjectName {
    package static var maximumLength: Int { 64 }

    /// What is wrong with a name; `nil` when nothing is.
    package static func fault(of name: String) -> String? {
        if name.isEmpty { return "a name must not be empty" }
        if name.utf8.count > maximumLength {
            return "the name has \(name.utf8.count) bytes; at most \(maximumLength) are allowed"
        }
        for scalar in name.unicodeScalars where !isAllowed(scalar) {
            return "the name '\(name)' has '\(scalar)' in it; allowed are letters, digits, '.', '-' and '_'"
        }
        if name.hasPrefix(".") || name.hasPrefix("-") {
            return "the name '\(name)' must start with a letter, a digit or '_'"
        }
        return nil
    }

    private static func isAllowed(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar {
        case "a"..."z", "A"..."Z", "0"..."9", ".", "-", "_": true
        default: false
        }
    }
}
