package import Foundation

/// The body of a request.
///
/// Its fields are all that it may have, so that a misspelt one is told and not passed over.
package protocol StrictRequest: Codable, Sendable {
    associatedtype CodingKeys: CodingKey & CaseIterable
}

/// Why a body was refused: which field, what was found, what would be right.
package struct JSONRefusal: Error, Hashable, Sendable, CustomStringConvertible {
    /// The field's path, `a.b`; empty when it is the body as a whole.
    package let field: String
    package let message: String

    package init(field: String, message: String) {
        self.field = field
        self.message = message
    }

    package var description: String { message }
}

/// JSON as it travels on the control socket: ISO 8601 times in UTC to the millisecond, sorted keys.
package enum ControlJSON {
    /// Encodes a reply; `isPretty` for people.
    package static func encode(_ value: some Encodable, isPretty: Bool = false) throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if isPretty { encoder.outputFormatting.insert(.prettyPrinted) }
        encoder.dateEncodingStrategy = .custom { date, encoder in
            var container = encoder.singleValueContainer()
            // Formatting cuts off what is below a millisecond: a time that was read would be written as one earlier.
            try container.encode(date.addingTimeInterval(0.0005).formatted(Self.timeStyle))
        }
        return try encoder.encode(value)
    }

    /// Decodes a reply; fields of newer daemons are passed over.
    package static func decode<Value: Decodable>(_ type: Value.Type, from data: Data) throws(JSONRefusal) -> Value {
        let decoder = JSONDecoder()
        decoder.dateDecodingStrategy = .custom { decoder in
            let container = try decoder.singleValueContainer()
            let text = try container.decode(String.self)
            guard let date = try? Date(text, strategy: Self.timeStyle) else {
                throw DecodingError.dataCorruptedError(in: container, debugDescription: "'\(text)' is not a time")
            }
            return date
        }
        do {
            return try decoder.decode(type, from: data)
        } catch let error as DecodingError {
            if let fault = syntaxFault(of: data) { throw JSONRefusal(field: "", message: fault) }
            throw refusal(of: error)
        } catch {
            throw JSONRefusal(field: "", message: "\(error)")
        }
    }

    /// Decodes a request, and refuses fields that it does not have.
    package static func decodeRequest<Request: StrictRequest>(
        _ type: Request.Type,
        from data: Data
    ) throws(JSONRefusal) -> Request {
        let known = Request.CodingKeys.allCases.map(\.stringValue)
        let found = try decode(FieldNames.self, from: data).names
        for name in found where !known.contains(name) {
            let nearest = Suggestion.nearest(to: name, among: known)
            let hint = nearest.map { "; did you mean '\($0)'?" } ?? "."
            throw JSONRefusal(
                field: name,
                message: "unknown field '\(name)'\(hint) Known are \(known.joined(separator: ", "))"
            )
        }
        do {
            return try decode(type, from: data)
        } catch let error where error.field.isEmpty {
            // The body is well-formed, so this is what Foundation says of a number that a field cannot hold.
            guard let field = try decode(NumberFields.self, from: data).unsuitable else { throw error }
            throw JSONRefusal(
                field: field,
                message: "the field '\(field)' is negative, has a fraction or is too large; expected a whole number"
            )
        }
    }

    private static var timeStyle: Date.ISO8601FormatStyle { Date.ISO8601FormatStyle(includingFractionalSeconds: true) }

    /// What is wrong with the text as such; the decoder does not tell.
    private static func syntaxFault(of data: Data) -> String? {
        do {
            _ = try JSONSerialization.jsonObject(with: data, options: .fragmentsAllowed)
            return nil
        } catch {
            let words = (error as NSError).userInfo["NSDebugDescription"] as? String
            return "not valid JSON: \(words ?? "\(error)")"
        }
    }

    private static func refusal(of error: DecodingError) -> JSONRefusal {
        switch error {
        case .keyNotFound(let key, let context):
            let field = path(context.codingPath + [key])
            return JSONRefusal(field: field, message: "the field '\(field)' is missing")
        case .valueNotFound(let type, let context):
            let field = path(context.codingPath)
            return JSONRefusal(field: field, message: "the field '\(field)' is null; expected \(words(for: type))")
        case .typeMismatch(let type, let context):
            let field = path(context.codingPath)
            let place = field.isEmpty ? "the body" : "the field '\(field)'"
            return JSONRefusal(field: field, message: "\(place) has the wrong type; expected \(words(for: type))")
        case .dataCorrupted(let context):
            let field = path(context.codingPath)
            let place = field.isEmpty ? "the body" : "the field '\(field)'"
            return JSONRefusal(field: field, message: "\(place) cannot be read: \(context.debugDescription)")
        @unknown default:
            return JSONRefusal(field: "", message: "\(error)")
        }
    }

    private static func path(_ keys: [any CodingKey]) -> String {
        keys.map { $0.intValue.map(String.init) ?? $0.stringValue }.joined(separator: ".")
    }

    private static func words(for type: Any.Type) -> String {
        switch type {
        case is String.Type: "a string"
        case is Bool.Type: "true or false"
        case is NumberOrName.Type: "a whole number or a string"
        case is any BinaryInteger.Type: "a whole number that is not too large"
        case is any BinaryFloatingPoint.Type: "a number"
        case is [String: Any].Type, is FieldNames.Type: "an object"
        default: "an object"
        }
    }

    /// Any field of an object.
    private struct AnyKey: CodingKey {
        var stringValue: String
        var intValue: Int? { nil }
        init(stringValue: String) { self.stringValue = stringValue }
        init?(intValue: Int) { nil }
    }

    /// The names of the fields of an object, whatever they hold.
    private struct FieldNames: Decodable {
        let names: [String]

        init(from decoder: any Decoder) throws {
            names = try decoder.container(keyedBy: AnyKey.self).allKeys.map(\.stringValue).sorted()
        }
    }

    /// The first field of an object that holds a number which is no whole number of 53 bits.
    private struct NumberFields: Decodable {
        let unsuitable: String?

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: AnyKey.self)
            unsuitable =
                container.allKeys.first { key in
                    guard let number = try? container.decode(Double.self, forKey: key) else { return false }
                    return number < 0 || number != number.rounded() || number >= 9_007_199_254_740_992
                }?.stringValue
        }
    }
}
