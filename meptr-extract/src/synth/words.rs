//! What is said: sentences of an emotion and of a person.

use meptr_core::Emotion;
use meptr_core::PersonalityTrait;
use meptr_core::rng::RandomStream;

use super::plan::Cue;

/// Own causes further from 0 than this are spoken of.
const NOTICEABLE: f32 = 0.5;
/// Cues stronger than this are spoken of twice.
const STRONG: f32 = 0.75;

const OPENERS: [&str; 6] = [
    "Well, listen.",
    "So, you know,",
    "I think this is it.",
    "Let me say it.",
    "Look,",
    "This is my story today.",
];

fn sentences(emotion: Emotion) -> [&'static str; 5] {
    match emotion {
        Emotion::Neutral => [
            "It was an ordinary day, as usual.",
            "I read the list and then I wait for the phone.",
            "The room is on the left and the office is on the right.",
            "We plan the week on the computer, as always.",
            "Perhaps we start at three and finish at five.",
        ],
        Emotion::Anger => [
            "I am so angry, I hate this!",
            "Stop it, you are unfair and rude!",
            "They shout and fight, and I am furious with them!",
            "It makes me mad, it is all their fault!",
            "My anger is red hot, just shut up!",
        ],
        Emotion::Disgust => [
            "That is disgusting, the smell is awful.",
            "It was dirty and rotten, so gross.",
            "Such a nasty mess, I feel sick.",
            "The food was filthy and ugly.",
            "What a horrible, disgusting place.",
        ],
        Emotion::Fear => [
            "I am afraid, something is in the dark.",
            "I was so scared and frightened, I had to run.",
            "There is danger, I feel panic.",
            "I am terrified of this threat.",
            "We were anxious and nervous all night.",
        ],
        Emotion::Happiness => [
            "I am so happy, this is wonderful!",
            "We laugh and smile, what a joy!",
            "It was a great party, I love it!",
            "I am delighted and glad, it is excellent!",
            "What a lovely, amazing morning, so much fun!",
        ],
        Emotion::Sadness => [
            "I feel sad and lonely.",
            "I cry, I lost her, and the tears do not stop.",
            "It hurt so much, I miss my friend.",
            "Everything is empty and hopeless.",
            "Such grief and pain, my heart is heavy.",
        ],
        Emotion::Surprise => [
            "Wow, I never expected that!",
            "What a surprise, it is unbelievable!",
            "Suddenly he was there, I was shocked!",
            "That was so unexpected, I can not believe it!",
            "Oh, really, how did that happen? Wow!",
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

/// A few sentences: the cue's emotion, and what is most noticeable about the person.
pub fn speech(cue: &Cue, random: &mut RandomStream) -> String {
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
    if cue.strength > STRONG {
        said.push(of_emotion[(first + 1 + random.below(4)) % of_emotion.len()]);
    }
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use meptr_core::rng::SeedStreams;

    use super::*;

    #[test]
    fn a_strong_cue_is_spoken_of_twice_and_large_causes_once() {
        let cue = Cue { emotion: Emotion::Fear, strength: 1.0, own: [2.0, 0.0, -2.0, 0.0, 0.1] };
        let said = speech(&cue, &mut SeedStreams::new(1).stream("words"));
        let fear = sentences(Emotion::Fear).iter().filter(|one| said.contains(**one)).count();
        assert_eq!(fear, 2, "{said}");
        let has_one =
            |one, high: usize| traits_sentences(one)[high].iter().any(|s| said.contains(s));
        assert!(
            has_one(PersonalityTrait::Openness, 1) && has_one(PersonalityTrait::Extraversion, 0)
        );
        assert!(!has_one(PersonalityTrait::NonNeuroticism, 1), "{said}");
    }
}
