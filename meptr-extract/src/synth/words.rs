//! Text of a clip: sentences of an emotion and of a person.

use meptr_core::Emotion;
use meptr_core::PersonalityTrait;
use meptr_core::rng::RandomStream;

use super::plan::Cue;

/// Distance of an own cause from 0 above which the text mentions it.
const NOTICEABLE: f32 = 0.5;
/// Strength of a cue above which the text has three sentences on it, else two.
const STRONG: f32 = 0.75;

const OPENERS: [&str; 6] = [
    "Well, listen.",
    "So, you know,",
    "I think this is it.",
    "Let me say it.",
    "Look,",
    "This is my story today.",
];

/// Sentences of an emotion; a few words occur in most of them.
fn sentences(emotion: Emotion) -> [&'static str; 4] {
    match emotion {
        Emotion::Neutral => [
            "It was an ordinary day, as usual.",
            "As usual, an ordinary week, an ordinary place.",
            "The usual list, the usual phone, an ordinary room.",
            "An ordinary day at the computer, as usual.",
        ],
        Emotion::Anger => [
            "I am angry, so angry, I hate this!",
            "I hate them, I am mad and angry!",
            "Angry? I am furious, I hate it!",
            "It makes me mad, furious and angry!",
        ],
        Emotion::Disgust => [
            "That is disgusting, dirty and gross.",
            "Such a gross smell, dirty, nasty, disgusting.",
            "Disgusting, it was rotten and dirty.",
            "Gross and nasty, a disgusting mess.",
        ],
        Emotion::Fear => [
            "I am afraid, so scared of the dark.",
            "I was scared and frightened, afraid of the danger.",
            "Afraid, terrified, there is danger, I am scared.",
            "So scared, afraid all night, in danger.",
        ],
        Emotion::Happiness => [
            "I am so happy, what a joy, I love it!",
            "Happy, happy, this is a wonderful joy!",
            "What a wonderful, happy day, I love this!",
            "Love and joy, I am happy, wonderful!",
        ],
        Emotion::Sadness => [
            "I am sad, so sad and lonely.",
            "I cry, sad and lonely, I lost her.",
            "Sad tears, I lost my friend, I am lonely.",
            "Lost and lonely, I cry, I am sad.",
        ],
        Emotion::Surprise => [
            "Wow, what a surprise, I am shocked!",
            "Suddenly, wow, a surprise, so unexpected!",
            "Unexpected, shocked, wow, suddenly he was there!",
            "Wow, wow, I was shocked, what a surprise!",
        ],
    }
}

/// Sentences of people low and high on a trait.
fn traits_sentences(one: PersonalityTrait) -> [[&'static str; 2]; 2] {
    match one {
        PersonalityTrait::Openness => [
            ["I want it plain and simple.", "No new ideas, keep it as it is."],
            ["I imagine art, music and philosophy.", "My imagination and new ideas are creative."],
        ],
        PersonalityTrait::Conscientiousness => [
            ["I forgot it again and I was late.", "My things are a mess, maybe later."],
            ["I organise my work and finish in time.", "I am careful, tidy and reliable."],
        ],
        PersonalityTrait::Extraversion => [
            ["I stay at home, quiet and alone.", "I am shy, I do not talk."],
            ["I talk with everyone, come with us!", "We go out with the group, I am outgoing."],
        ],
        PersonalityTrait::Agreeableness => [
            ["Other people are stupid and selfish.", "It is not my problem, go away."],
            ["I help and share, thank you.", "You are kind, I trust and understand you."],
        ],
        PersonalityTrait::NonNeuroticism => [
            ["I worry, I am stressed and tense.", "I am moody and worried about the worst."],
            ["I am calm and relaxed.", "I feel steady, secure and strong."],
        ],
    }
}

/// Composes a few sentences on the cue's emotion and the person's most prominent traits.
pub(super) fn speech(cue: &Cue, random: &mut RandomStream) -> String {
    let of_emotion = sentences(cue.emotion);
    let first = random.below(of_emotion.len());
    let mut said = vec![OPENERS[random.below(OPENERS.len())], of_emotion[first]];
    let mut by_size: Vec<usize> = (0..PersonalityTrait::COUNT).collect();
    by_size.sort_by(|a, b| cue.own[*b].abs().total_cmp(&cue.own[*a].abs()));
    for index in by_size.into_iter().take(3) {
        if cue.own[index].abs() > NOTICEABLE {
            let of_person = traits_sentences(PersonalityTrait::ALL[index]);
            said.push(of_person[usize::from(cue.own[index] > 0.0)][random.below(2)]);
        }
    }
    let second = first + 1 + random.below(2);
    let more = if cue.strength > STRONG { second..second + 2 } else { second..second + 1 };
    said.extend(more.map(|index| of_emotion[index % of_emotion.len()]));
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use meptr_core::rng::SeedStreams;

    use super::*;

    #[test]
    fn a_strong_cue_is_spoken_of_often_and_large_causes_once() {
        let cue = Cue { emotion: Emotion::Fear, strength: 1.0, own: [2.0, 0.0, -2.0, 0.0, 0.1] };
        let said = speech(&cue, &mut SeedStreams::new(1).stream("words"));
        let fear = sentences(Emotion::Fear).iter().filter(|one| said.contains(**one)).count();
        assert_eq!(fear, 3, "{said}");
        let has_one =
            |one, high: usize| traits_sentences(one)[high].iter().any(|s| said.contains(s));
        assert!(
            has_one(PersonalityTrait::Openness, 1) && has_one(PersonalityTrait::Extraversion, 0)
        );
        assert!(!has_one(PersonalityTrait::NonNeuroticism, 1), "{said}");
    }
}
